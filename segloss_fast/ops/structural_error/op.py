"""structural_error as operators of torch, and its kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from segloss_fast._check import REAL
from segloss_fast.ops._operator import Kernels, Native, Triton, define_both


def _unknown(device: torch.device, dtype: torch.dtype, target: torch.dtype) -> str | None:
    known = dtype in (torch.float32, torch.float64) and target in REAL
    return None if known else "the Triton kernels do not know these dtypes"


kernels = Kernels("structural_error", Native(cuda=False), Triton(_unknown))


def _fake(values: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
    return torch.empty_like(values)


call: Callable[..., Tensor] = define_both(
    kernels,
    ("Tensor values", "Tensor target"),
    "int window_size, float sigma, float constant, int first, str impl",
    (kernels.passing("forward"), kernels.passing("backward")),
    _fake,
)
