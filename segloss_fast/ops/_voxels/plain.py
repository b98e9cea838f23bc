"""Tensors that C++ reads by itself, where a raw operator costs more than its kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segloss_fast._native import _C


def read_plain(impl: str, *tensors: Tensor) -> Any:  # noqa: ANN401
    """Return where the numbers of tensors lie; None where the raw operators are to be asked.

    Args:
        impl: Which kernels; those of the CPU are "native".
        tensors: What they get, the input first.
    """
    if impl != "native" or not tensors or not tensors[0].is_cpu:
        return None
    if torch._C._len_torch_dispatch_stack():  # modes that count or record see operators
        return None
    assert _C is not None
    return _C.read_plain(tensors)
