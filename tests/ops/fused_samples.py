"""What the tests of fused loops share: instruction sets, and problems of a softmax."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

LEVELS = ("avx512", "avx2", "baseline")


def take_level(native: ModuleType, name: str) -> None:
    """Use an instruction set, or skip the test where this machine does not have it."""
    try:
        native.set_cpu_capability(name)
    except RuntimeError as error:
        pytest.skip(str(error))


def logits(*shape: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(1))


def classes_of(x: Tensor, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Return random class indices for logits."""
    shape = (x.shape[0], *x.shape[2:])
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, x.shape[1], shape, generator=generator).to(dtype)
