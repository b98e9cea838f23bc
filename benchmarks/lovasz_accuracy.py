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

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from segloss_fast.ops.lovasz import bins, reference
from segloss_fast.ops.lovasz.options import Options

SIZES = (10**4, 10**5, 2**20, 2**22, 10**7)
FOREGROUND = (0.3, 0.01, 0.001, 0.0001)
LOGITS = ("random", "saturated")
LAYOUTS = ((2, 11), (12, 7), (16, 7), (12, 8), (16, 8), (12, 9), (16, 9))
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


def gradient(loss: Tensor, x: Tensor) -> Tensor:
    """Return the gradient, in float64."""
    (grad,) = torch.autograd.grad(loss.sum(), x)
    return grad.double()


def coarse(x: Tensor, target: Tensor, options: Options, counts: Tensor) -> Tensor:
    """Return the counts with offsets of 8 bits, of which 128 is the middle."""
    t = (target != 0)[:, None]
    where, offset, _ = bins.locate(*reference.errors(x, t, options.activation), options)
    offset = (offset >> 8 << 8) + 128
    size = bins.number(options.octaves, options.bits)
    sums = torch.zeros(2 * size, dtype=torch.int64)
    sums.scatter_add_(0, (where + size * t).flatten(), offset.flatten())
    return torch.stack([counts[0], sums.view(counts[0].shape)])


def measure(x: Tensor, target: Tensor, activation: str, layouts: list[tuple[int, int]]) -> Errors:
    """Return the errors of each column."""
    options = Options(activation, "sort", *bins.DEFAULT, False, None, False)
    exact = x.double().requires_grad_()
    loss, *_ = reference.sort(exact, target, options)
    true_grad, true_loss = gradient(loss, exact), loss.item()

    def compare(value: Tensor, grad: Tensor) -> dict[str, float]:
        error = abs(value.double().item() - true_loss) / max(true_loss, 1)
        return {"grad": float((grad - true_grad).norm() / true_grad.norm()), "loss": error}

    x = x.requires_grad_()
    eager = published(x, target, activation)
    found = {"eager": compare(eager.detach(), gradient(eager, x))}
    loss, *_ = reference.sort(x, target, options)
    found["sort"] = compare(loss.detach(), gradient(loss, x))
    for octaves, bits in layouts:
        options = replace(options, method="histogram", octaves=octaves, bits=bits)
        counts, rows, _ = reference.count(x.detach(), target, options)
        value, table = reference.scan(counts, rows, options, torch.float32)
        grad = gradient(reference.weigh(x, target, table, options), x)
        errors = compare(value, grad)
        value, _ = reference.scan(
            coarse(x.detach(), target, options, counts), rows, options, torch.float32
        )
        errors["loss8"] = compare(value, grad)["loss"]
        found[f"{octaves}x{bits}"] = errors
    return found


def cells(largest: int) -> Iterator[tuple[str, float, int]]:
    """Return the kind of logits, the share of foreground and the number of voxels of every cell."""
    for kind in LOGITS:
        for foreground in FOREGROUND:
            for voxels in SIZES:
                if voxels <= largest:
                    yield kind, foreground, voxels


def demands(cell: dict[str, object], errors: Errors) -> dict[str, list[str]]:
    """Return what each layout misses of what a default must keep, in one cell."""
    missed: dict[str, list[str]] = {}
    voxels, foreground = cell["voxels"], cell["foreground"]
    assert isinstance(voxels, int)
    assert isinstance(foreground, float)
    for name, own in errors.items():
        if name in ("eager", "sort"):
            continue
        missed[name] = []
        if max(own["loss"], own["loss8"]) > 1e-5:
            missed[name].append("loss")
        if foreground >= 0.01 and voxels >= 2**20 and own["grad"] >= errors["eager"]["grad"]:
            missed[name].append("eager")
        if own["grad"] > 1e-2:
            missed[name].append("grad")
    return missed


def main() -> None:
    """Measure every cell, print the table, and keep it where the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--activation", default="sigmoid", choices=("sigmoid", "hinge"))
    parser.add_argument("--largest", type=int, default=max(SIZES), help="number of voxels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layouts", default="", help="like 12x8,16x8")
    parser.add_argument("--json", type=Path, help="file to write")
    arguments = parser.parse_args()
    layouts = list(LAYOUTS)
    if arguments.layouts:
        pairs = (name.split("x") for name in arguments.layouts.split(","))
        layouts = [(int(octaves), int(bits)) for octaves, bits in pairs]
    found: list[dict[str, object]] = []
    worst: dict[str, list[str]] = {}
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
        for name, missed in demands(cell, errors).items():
            worst.setdefault(name, []).extend(missed)
    for name, missed in worst.items():
        octaves, bits = name.split("x")
        size = bins.number(int(octaves), int(bits))
        print(f"{name}: {size} bins, misses in cells: {missed or 'none'}")
    if arguments.json:
        record = {"activation": arguments.activation, "torch": torch.__version__, "cells": found}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
