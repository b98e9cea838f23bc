"""How exact the bins of the Lovász losses are: errors of loss and gradient against float64.

For independent voxels the table has the relative L2 error of the gradient in the logits and the
error of the loss (divided by the loss where that is above 1), summed over the classes, by the exact
sort in float64, of

* ``eager``: the published algorithm (sort, cumulative sums, differences of neighbouring Jaccard
  values) in plain PyTorch and float32;
* ``sort``: ours in float32, exact;
* a column per layout ``E x b`` of the bins (segloss_fast/ops/lovasz/bins.py), in float32. The loss
  of kernels that keep 8 bits of an error's place in its bin instead of 16 is ``loss8``.

Logits are random (standard normal); saturated: those of a trained network, sure of its class, and
wrong in a tenth of the foreground and in as many voxels of the background; or collapsed to one
value, as those of a network that has learnt nothing: normal, with a spread of 0.1, 0.01 or 0.001,
around 0, where all classes are as probable, or around where the first (the sigmoid's only) class
has a probability of 2/3. Of a softmax there are several classes, which share the foreground.

Cells that the file of ``--json`` has are not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.tables.cells import table
from segloss_fast.ops.lovasz import bins, reference
from segloss_fast.ops.lovasz.contract import SORT_BELOW
from segloss_fast.ops.lovasz.options import Options

SIZES = (10**4, 10**5, 2**18, 2**20, 2**22, 10**7)
COLLAPSED_SIZES = (2**18, 2**20, 2**22)
FOREGROUND = (0.3, 0.01, 0.001, 0.0001)
# Spread, and the probability of the first class (None: that of all).
COLLAPSED = {
    "collapsed, 0.1": (0.1, None),
    "collapsed, 0.01": (0.01, None),
    "collapsed, 0.001": (0.001, None),
    "at 2/3, 0.1": (0.1, 2 / 3),
    "at 2/3, 0.001": (0.001, 2 / 3),
}
LAYOUTS = ((12, 7), (16, 7), (16, 8))
PAGE = Path(__file__).resolve().parent.parent / "docs" / "lovasz_accuracy.md"
PREFACE = (
    "# Errors of the Lovász losses\n\nMeasured and written by `benchmarks/lovasz_accuracy.py`; its "
    "docstring says what the columns are."
)
LEGEND = (
    "Relative L2 error of the gradient in the logits / error of the loss, of float32 "
    "against the exact sort in float64; per column a number of bins (octaves x bits), `eager` the "
    "published algorithm."
)
Errors = dict[str, dict[str, float]]


def problem(
    voxels: int, foreground: float, logits: str, classes: int = 1, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return float32 logits ``[1, C, N]`` and labels ``[1, N]``."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.zeros(1, voxels, dtype=torch.uint8)
    inside = max(1, round(foreground * voxels))
    target[:, :inside] = 1 + torch.arange(inside) % max(classes - 1, 1)
    x = torch.randn(1, classes, voxels, generator=generator)
    if logits in COLLAPSED:
        spread, first = COLLAPSED[logits]
        x *= spread
        if first is not None:
            x[:, 0] += math.log(first / (1 - first) * max(classes - 1, 1))
    if logits == "saturated":
        predicted = target.clone()
        wrong = max(1, inside // 10)
        predicted[:, inside - wrong : inside + wrong] = 1 - predicted[
            :, inside - wrong : inside + wrong
        ].clamp_max(1)
        if classes == 1:
            x += 12 * (2.0 * predicted[None] - 1)
        else:
            x += 12 * (predicted[:, None] == torch.arange(classes)[:, None])
    return x, target


def foreground_of(x: Tensor, target: Tensor) -> Tensor:
    """Return t, bool ``[1, C, N]``."""
    if x.shape[1] == 1:
        return (target != 0)[:, None]
    return target[:, None] == torch.arange(x.shape[1])[:, None]


def published(x: Tensor, target: Tensor, activation: str) -> Tensor:
    """Return the sum over classes of the loss by Berman's algorithm, in the dtype of the input."""
    total = x.new_zeros(())
    p = x.softmax(1) if activation == "softmax" else x.sigmoid()
    for c, foreground in enumerate(foreground_of(x, target)[0]):
        t = foreground.to(x.dtype)
        hinge = activation == "hinge"
        errors = (1 - x[0, c] * (2 * t - 1)).relu() if hinge else (t - p[0, c]).abs()
        errors, order = errors.sort(descending=True)
        t = t[order]
        jaccard = 1 - (t.sum() - t.cumsum(0)) / (t.sum() + (1 - t).cumsum(0))
        total = total + torch.dot(errors, torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]]))
    return total


class Judge:
    """The exact loss and gradient of a problem, by which answers are judged."""

    def __init__(self, x: Tensor, target: Tensor, options: Options) -> None:
        self.x, self.target, self.options = x, target, options
        value, _, _, g = reference.sort(x.double(), target, options)
        self.loss = value.sum().item()
        self.grad = self.gradient(g)

    def gradient(self, g: Tensor) -> Tensor:
        """Return the gradient in the logits, by the derivative in m, in the dtype of that."""
        x = self.x.detach().to(g.dtype).requires_grad_()
        foreground = foreground_of(x, self.target)
        m, _ = reference.errors(x, foreground, self.options.activation)
        (grad,) = torch.autograd.grad((m * g).sum(), x)
        return grad

    def loss_error(self, value: Tensor) -> float:
        """Return the error of the loss."""
        return abs(value.double().sum().item() - self.loss) / max(self.loss, 1)

    def compare(self, value: Tensor, grad: Tensor) -> dict[str, float]:
        """Return both errors."""
        error = (grad.double() - self.grad).norm() / self.grad.norm()
        return {"grad": float(error), "loss": self.loss_error(value)}


def measure(x: Tensor, target: Tensor, activation: str, layouts: list[tuple[int, int]]) -> Errors:
    """Return the errors of each column."""
    options = Options(activation, "sort", *bins.DEFAULT, False, None, False)
    judge = Judge(x, target, options)
    leaf = x.clone().requires_grad_()
    value = published(leaf, target, activation)
    (grad,) = torch.autograd.grad(value, leaf)
    found = {"eager": judge.compare(value.detach(), grad)}
    value, rows, _, g = reference.sort(x, target, options)
    found["sort"] = judge.compare(value, judge.gradient(g))
    foreground, classes = foreground_of(x, target), x.shape[1]
    m, complement = reference.errors(x, foreground, activation)
    for octaves, bits in layouts:
        options = replace(options, method="histogram", octaves=octaves, bits=bits)
        size = bins.number(octaves, bits)
        place, offset, _ = bins.locate(m, complement, options)
        place += size * foreground + 2 * size * torch.arange(classes)[:, None]
        number = torch.bincount(place.flatten(), minlength=classes * 2 * size)

        def scan(
            offset: Tensor, place: Tensor = place, number: Tensor = number, o: Options = options
        ) -> tuple[Tensor, Tensor]:
            sums = torch.zeros_like(number).scatter_add_(0, place.flatten(), offset.flatten())
            counts = torch.stack([number, sums]).view(2, 1, classes, 2, -1)
            return reference.scan(counts, rows[:2], o, torch.float32)

        value, table = scan(offset)
        errors = judge.compare(value, judge.gradient(table.flatten()[place]))
        value, _ = scan((offset >> 8 << 8) + 128)
        errors["loss8"] = judge.loss_error(value)
        found[f"{octaves}x{bits}"] = errors
    return found


def cells(largest: int) -> Iterator[tuple[str, float, int]]:
    """Return the kind of logits, the share of foreground and the number of voxels of every cell."""
    for voxels in SIZES:
        kinds = ["random", "saturated", *(COLLAPSED if voxels in COLLAPSED_SIZES else ())]
        for kind in kinds:
            for foreground in FOREGROUND:
                if voxels <= largest:
                    yield kind, foreground, voxels


def markdown(record: dict[str, Any]) -> str:
    """Return the table of a file that --json wrote, with what it shows of the default."""
    cells = record["cells"]
    names = list(cells[0]["errors"])
    octaves, bits = bins.DEFAULT
    default, size = f"{octaves}x{bits}", bins.number(octaves, bits)
    heads = [n if n in ("eager", "sort") else f"{bins.number(*_layout(n))} ({n})" for n in names]
    rows = [
        [
            cell["logits"],
            f"{cell['foreground']:.2%}",
            f"{cell['voxels']:,}",
            *(f"{cell['errors'][n]['grad']:.1e} / {cell['errors'][n]['loss']:.0e}" for n in names),
        ]
        for cell in cells
    ]

    def most(what: str, cells: list[dict[str, Any]]) -> str:
        return f"{max(cell['errors'][default][what] for cell in cells):.1e}"

    large = [cell for cell in cells if cell["voxels"] >= SORT_BELOW]
    others = [cell for cell in large if cell["logits"].startswith("at")]
    large = [cell for cell in large if cell not in others]
    common = [cell for cell in large if cell["foreground"] >= 0.01]
    beyond = sum(c["errors"][default]["grad"] >= c["errors"]["eager"]["grad"] for c in common)
    classes = record["classes"]
    return (
        f"{record['activation']} errors of {classes} class{'es' if classes > 1 else ''}, {size} "
        f"bins ({default}): loss error at most {most('loss', cells)}; gradient error at most "
        f"{most('grad', others)} where predictions crowd at 2/3; elsewhere, from 2^18 voxels on, "
        f"{most('grad', large)}, and with 1 % foreground and more {most('grad', common)}: there "
        f"it is worse than eager float32's in {beyond} of {len(common)} cells.\n\n"
        + table(["logits", "foreground", "voxels", *heads], rows)
    )


def publish(paths: list[Path]) -> None:
    """Write the page with the tables of these files."""
    tables = [markdown(json.loads(path.read_text())) for path in paths]
    PAGE.write_text("\n\n".join([PREFACE, LEGEND, *tables]) + "\n", encoding="utf-8")


def _layout(name: str) -> tuple[int, int]:
    octaves, bits = name.split("x")
    return int(octaves), int(bits)


def main() -> None:
    """Measure every cell, print the table, and keep it where the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--activation", default="sigmoid", choices=("softmax", "sigmoid", "hinge"))
    parser.add_argument("--classes", type=int, default=1)
    parser.add_argument("--largest", type=int, default=max(SIZES), help="number of voxels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layouts", default="", help="like 12x7,16x7")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--publish", nargs="+", type=Path, metavar="FILE", help="write docs")
    arguments = parser.parse_args()
    if arguments.publish:
        publish(arguments.publish)
        return
    layouts = list(LAYOUTS)
    if arguments.layouts:
        layouts = [_layout(name) for name in arguments.layouts.split(",")]
    run(arguments, layouts)


def run(arguments: argparse.Namespace, layouts: list[tuple[int, int]]) -> None:
    """Measure, print and keep the cells that are not kept yet."""
    activation, classes = arguments.activation, arguments.classes
    found: list[dict[str, Any]] = []
    if arguments.json and arguments.json.exists():
        found = json.loads(arguments.json.read_text())["cells"]
    kept = [(cell["logits"], cell["foreground"], cell["voxels"]) for cell in found]
    for kind, foreground, voxels in cells(arguments.largest):
        if (kind, foreground, voxels) in kept:
            continue
        cell = {"logits": kind, "foreground": foreground, "voxels": voxels}
        x, target = problem(voxels, foreground, kind, classes, arguments.seed)
        errors = measure(x, target, activation, layouts)
        if not found:
            print(" " * 37 + "".join(f"{name:^27}" for name in errors))
        text = "".join(
            f"{own['grad']:9.1e}{own['loss']:9.1e}{own.get('loss8', own['loss']):9.1e}"
            for own in errors.values()
        )
        print(f"{kind:17}{foreground:9.2%}{voxels:10d} {text}", flush=True)
        found.append({**cell, "errors": errors})
        found.sort(key=lambda cell: cell["voxels"])
        if arguments.json:
            record = {"activation": activation, "classes": classes, "torch": torch.__version__}
            text = json.dumps({**record, "cells": found}, indent=1)
            arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
