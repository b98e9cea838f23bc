"""Calls of distance_transform's CUDA operators on the CPU, for tests and sanitizers."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from segloss_fast.ops.distance_transform.spacing import squares
from tests.cuda_shim.operators import CSRC
from tests.ops import nearest_cases
from tests.ops.distance_transform_cases import SIDES, Case

CUDA = CSRC / "distance_transform" / "cuda"


def run(case: Case) -> Tensor:
    """Return the distances by the CUDA kernels, on the CPU, of the library that is loaded."""
    operator = torch.ops.segloss_shim_distance_transform._distance_transform
    side = SIDES.index(case.side)
    result: Tensor = operator(case.mask, list(case.spacing), side, case.squared)
    return result


def call_nearest(case: nearest_cases.Case, *, distance: bool = True) -> tuple[Tensor, Tensor]:
    """Return nearest labels and distances by the CUDA kernels, on the CPU."""
    operator = torch.ops.segloss_shim_distance_transform._distance_transform_nearest
    unit, weights = squares(case.spacing)
    nearest, distances, _ = operator(case.labels, weights, unit, distance)
    return nearest, distances


def run_nearest(case: nearest_cases.Case) -> tuple[Tensor, Tensor]:
    """Likewise; the labels alone must be the same."""
    nearest, distances = call_nearest(case)
    alone, none = call_nearest(case, distance=False)
    assert torch.equal(nearest, alone), case
    assert none.numel() == 0
    return nearest, distances


def run_malformed_nearest() -> None:
    """As below, of the other operator."""
    operator = torch.ops.segloss_shim_distance_transform._distance_transform_nearest
    labels = torch.ones(1, 2, 3, 4, dtype=torch.int32)
    for arguments in (
        (labels, [1.0], 1.0, False),
        (labels, [0.0, 1.0], 1.0, False),
        (labels, [1.0, float("nan")], 1.0, True),
        (labels, [1.0, 1e30], 1.0, True),
        (labels, [1.0, 1.0], 0.0, True),
        (labels.float(), [1.0, 1.0], 1.0, False),
        (labels[0], [], 1.0, False),
        (labels[0, 0], [], 1.0, False),
        (labels[None, None], [1.0] * 4, 1.0, False),
    ):
        with contextlib.suppress(RuntimeError):
            operator(*arguments)
            raise AssertionError(f"not refused: {arguments[1:]}")


def run_malformed() -> None:
    """Calls that Python's checks would refuse, made directly: an error, or a harmless answer."""
    operator = torch.ops.segloss_shim_distance_transform._distance_transform
    mask = torch.ones(1, 2, 3, 4)
    for arguments in (
        (mask, [1.0], 0, False),
        (mask, [1.0] * 3, 0, False),
        (mask, [0.0, 1.0], 0, False),
        (mask, [1.0, float("nan")], 0, False),
        (mask, [1.0, 1.0], 4, False),
        (mask, [1.0, 1.0], -1, False),
        (mask[0], [], 0, False),
        (mask[0, 0], [], 0, False),
        (mask[None, None], [1.0] * 4, 0, False),
        (mask.to(torch.complex64), [1.0, 1.0], 0, False),
    ):
        with contextlib.suppress(RuntimeError):
            operator(*arguments)
            raise AssertionError(f"not refused: {arguments[1:]}")
