"""How exact the bins of the Lovász losses are: errors of loss and gradient against float64.

For one class of independent voxels the table has the relative L2 error of the gradient in the
logits and the error of the loss (divided by the loss where that is above 1), by
the exact sort in float64, of

* ``eager``: the published algorithm (sort, cumulative sums, differences of neighbouring Jaccard
  values) in plain PyTorch and float32;
* ``sort``: ours in float32, exact;
* a column per layout ``E x b`` of the bins (segloss_fast/ops/lovasz/bins.py), in float32. The loss
  of kernels that keep 8 bits of an error's place in its bin instead of 16 is ``loss8``.

Logits are random (standard normal) or saturated: those of a trained network, sure of its class, and
wrong in a tenth of the foreground and in as many voxels of the background.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.tables import table
from segloss_fast.ops.lovasz import bins, reference
from segloss_fast.ops.lovasz.options import Options

SIZES = (10**4, 10**5, 2**20, 2**22, 10**7)
FOREGROUND = (0.3, 0.01, 0.001, 0.0001)
LOGITS = ("random", "saturated")
LAYOUTS = ((2, 11), (12, 7), (16, 7), (12, 8), (16, 8), (12, 9), (16, 9))
PAGE = Path(__file__).resolve().parent.parent / "docs" / "lovasz_accuracy.md"
PREFACE = (
    "# Errors of the Lovász losses\n\nMeasured and written by `benchmarks/lovasz_accuracy.py`; its "
    "docstring says what the columns are."
)
LEGEND = (
    "One class: relative L2 error of the gradient in the logits / error of the loss, of float32 "
    "against the exact sort in float64; per column a number of bins (octaves x bits), `eager` the "
    "published algorithm."
)
Errors = dict[str, dict[str, float]]


def problem(voxels: int, foreground: float, logits: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return float32 logits ``[1, 1, N]`` and labels ``[1, N]``."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.zeros(1, voxels, dtype=torch.uint8)
    inside = max(1, round(foreground * voxels))
    target[:, :inside] = 1
    x = torch.randn(1, 1, voxels, generator=generator)
    if logits == "saturated":
        predicted = target.float()
        wrong = max(1, inside // 10)
        predicted[:, inside - wrong : inside + wrong] = (
            1 - predicted[:, inside - wrong : inside + wrong]
        )
        x += 12 * (2 * predicted[None] - 1)
    return x, target


def published(x: Tensor, target: Tensor, activation: str) -> Tensor:
    """Return the loss of one class by Berman's algorithm, in the dtype of the input."""
    t = (target != 0).to(x.dtype).flatten()
    x = x.flatten()
    errors = (1 - x * (2 * t - 1)).relu() if activation == "hinge" else (t - x.sigmoid()).abs()
    errors, order = errors.sort(descending=True)
    t = t[order]
    jaccard = 1 - (t.sum() - t.cumsum(0)) / (t.sum() + (1 - t).cumsum(0))
    return torch.dot(errors, torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]]))


def derivative(x: Tensor, target: Tensor, activation: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return m, 1 - m, and the derivative of m in the logits, in the dtype of the input."""
    x = x.detach().requires_grad_()
    m, complement = reference.errors(x, (target != 0)[:, None], activation)
    (slope,) = torch.autograd.grad(m.sum(), x)
    return m.detach(), complement.detach(), slope


def measure(x: Tensor, target: Tensor, activation: str, layouts: list[tuple[int, int]]) -> Errors:
    """Return the errors of each column."""
    options = Options(activation, "sort", *bins.DEFAULT, False, None, False)
    value, _, _, g = reference.sort(x.double(), target, options)
    true_loss = value.item()
    true_grad = g * derivative(x.double(), target, activation)[2]
    norm = true_grad.norm()

    def compare(value: Tensor, grad: Tensor) -> dict[str, float]:
        error = abs(value.double().item() - true_loss) / max(true_loss, 1)
        return {"grad": float((grad.double() - true_grad).norm() / norm), "loss": error}

    leaf = x.clone().requires_grad_()
    value = published(leaf, target, activation)
    (grad,) = torch.autograd.grad(value, leaf)
    found = {"eager": compare(value.detach(), grad)}
    m, complement, slope = derivative(x, target, activation)
    value, rows, _, g = reference.sort(x, target, options)
    found["sort"] = compare(value, g * slope)
    for octaves, bits in layouts:
        options = replace(options, method="histogram", octaves=octaves, bits=bits)
        size = bins.number(octaves, bits)
        place, offset, _ = bins.locate(m, complement, options)
        place += size * (target != 0)[:, None]
        number = torch.bincount(place.flatten(), minlength=2 * size)

        def scan(
            offset: Tensor, place: Tensor = place, number: Tensor = number, o: Options = options
        ) -> tuple[Tensor, Tensor]:
            sums = torch.zeros_like(number).scatter_add_(0, place.flatten(), offset.flatten())
            counts = torch.stack([number, sums]).view(2, 1, 1, 2, -1)
            return reference.scan(counts, rows[:2], o, torch.float32)

        value, table = scan(offset)
        errors = compare(value, table.flatten()[place] * slope)
        value, _ = scan((offset >> 8 << 8) + 128)
        errors["loss8"] = abs(value.item() - true_loss) / max(true_loss, 1)
        found[f"{octaves}x{bits}"] = errors
    return found


def cells(largest: int) -> Iterator[tuple[str, float, int]]:
    """Return the kind of logits, the share of foreground and the number of voxels of every cell."""
    for voxels in SIZES:
        for kind in LOGITS:
            for foreground in FOREGROUND:
                if voxels <= largest:
                    yield kind, foreground, voxels


def markdown(record: dict[str, Any]) -> str:
    """Return the table of a file that --json wrote, with what it shows of the default."""
    cells = record["cells"]
    names = list(cells[0]["errors"])
    octaves, bits = bins.layout(None, record["activation"])
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
    judged = [
        cell["errors"] for cell in cells if cell["foreground"] >= 0.01 and cell["voxels"] >= 2**20
    ]
    beyond = sum(errors[default]["grad"] >= errors["eager"]["grad"] for errors in judged)
    grad, loss = (max(cell["errors"][default][what] for cell in cells) for what in ("grad", "loss"))
    return (
        f"{record['activation']} errors, {size} bins ({default}): gradient error at most "
        f"{grad:.1e}, loss error at most {loss:.0e}; from 2^20 voxels and 1 % foreground on, the "
        f"gradient is worse than eager float32's in {beyond} of {len(judged)} cells.\n\n"
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
    parser.add_argument("--activation", default="sigmoid", choices=("sigmoid", "hinge"))
    parser.add_argument("--largest", type=int, default=max(SIZES), help="number of voxels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layouts", default="", help="like 12x8,16x8")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--publish", nargs="+", type=Path, metavar="FILE", help="write docs")
    arguments = parser.parse_args()
    if arguments.publish:
        publish(arguments.publish)
        return
    layouts = list(LAYOUTS)
    if arguments.layouts:
        layouts = [_layout(name) for name in arguments.layouts.split(",")]
    found: list[dict[str, object]] = []
    for kind, foreground, voxels in cells(arguments.largest):
        cell = {"logits": kind, "foreground": foreground, "voxels": voxels}
        errors = measure(
            *problem(voxels, foreground, kind, arguments.seed), arguments.activation, layouts
        )
        if not found:
            print("logits      fg      voxels  " + "".join(f"{name:^27}" for name in errors))
        text = "".join(
            f"{own['grad']:9.1e}{own['loss']:9.1e}{own.get('loss8', own['loss']):9.1e}"
            for own in errors.values()
        )
        print(f"{kind:10}{foreground:7.2%}{voxels:10d}  {text}", flush=True)
        found.append({**cell, "errors": errors})
    if arguments.json:
        record = {"activation": arguments.activation, "torch": torch.__version__, "cells": found}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
