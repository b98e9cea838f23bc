"""Calls of connected_components' CUDA operator on the CPU, for tests and sanitizers."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.ops.connected_components_cases import Case, check
from tests.sanitizers.fuzz_connected_components import GOOD, malformed


def run(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Return components, count and values by the CUDA kernels, on the CPU."""
    operator = torch.ops.segloss_shim_connected_components._connected_components
    components, count, value, wide = operator(*case.arguments)
    assert not wide.item(), case
    return components, count, value


def compare(case: Case) -> None:
    """Run a problem and compare with scipy."""
    check(run(case), case)


def run_malformed() -> None:
    """Make the calls that must be refused."""
    operator = torch.ops.segloss_shim_connected_components._connected_components
    operator(*GOOD.values())
    for change in (*malformed(), {"order": [1, 0]}):  # the last is for the CPU's kernels
        try:
            operator(*{**GOOD, **change}.values())
        except RuntimeError:
            continue
        raise AssertionError(f"not refused: {change}")
