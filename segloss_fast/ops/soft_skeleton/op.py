"""soft_skeleton as operators of torch, and its kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segloss_fast.ops._operator import Kernels, Native, Triton, define_both

kernels = Kernels("soft_skeleton", Native(cuda=False), Triton())


def _fake(values: Tensor, iterations: int, first: int, impl: str) -> Tensor:
    return torch.empty_like(values)


call: Callable[..., Tensor] = define_both(
    kernels,
    ("Tensor values",),
    "int iterations, int first, str impl",
    (kernels.passing("forward"), kernels.passing("backward")),
    _fake,
)
