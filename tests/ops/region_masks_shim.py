"""Calls of region_masks' CUDA operator on the CPU, for tests and sanitizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.cuda_shim.operators import CSRC, build_operators
from tests.ops.region_masks_cases import Case

CUDA = CSRC / "region_masks" / "cuda"
TRAFFIC = Path(__file__).with_name("region_masks_traffic.cu")


def build_traffic(folder: Path) -> Path:
    """Compile the kernels with their wide loads counted, as library segloss_shim_traffic."""
    output, library = folder / "traffic.so", "segloss_shim_traffic"
    return build_operators([TRAFFIC, CUDA / "op.cu"], output, library, options=["-Werror"])


def run(case: Case) -> Tensor:
    """Return the masks by the CUDA kernels, on the CPU, of the library that is loaded."""
    result: Tensor = torch.ops.segloss_shim_region_masks._region_masks(*case.arguments)
    return result


def run_malformed() -> None:
    """Calls that nobody makes through Python, which must be refused."""
    x, labels = torch.randn(2, 3, 5), torch.zeros(2, 5, dtype=torch.int64)
    good: dict[str, Any] = {
        "values": x,
        "labels": labels,
        "classes": 3,
        "mode": 0,
        "ignore_index": 1,
        "first": 0,
    }
    changes: list[dict[str, Any]] = [
        {"values": torch.zeros(3)},
        {"values": torch.zeros(2, 3, 1, 1, 1, 5)},
        {"values": torch.zeros(2, 3, 5, dtype=torch.complex64)},
        {"values": torch.zeros(2, 3, 5, dtype=torch.int64)},  # of which there is no softmax
        {"values": x[:, :2]},
        {"labels": labels[:, :4]},
        {"labels": labels[:1]},
        {"labels": x},
        {"mode": 3},  # labels beside labels
        {"mode": 3, "labels": None, "classes": 2**40},
        *({"classes": value} for value in (0, -1, 2, 4, 2**40)),
        *({"mode": value} for value in (-1, 4, 2**40)),
        {"first": -1},
    ]
    operator = torch.ops.segloss_shim_region_masks._region_masks
    operator(*good.values())
    for change in changes:
        try:
            operator(*{**good, **change}.values())
        except RuntimeError:
            continue
        raise AssertionError(f"not refused: {change}")
