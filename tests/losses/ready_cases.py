"""What the tests of kept calls share: a problem, a loss after a call, the formula in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast.losses import _planned
from segloss_fast.losses._ready import Ready
from tests.helpers import assert_close

SHAPE = (2, 3, 5, 4)
Call = Callable[..., Tensor]


@contextmanager
def alone() -> Iterator[None]:
    """Let formulas run in PyTorch, and nothing be kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_planned, "plan_of", lambda call, tensors: None)
        patch.setattr(Ready, "value", lambda ready, tensors, arguments: None)
        yield


def problem(dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SHAPE, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, 3, (2, 1, *SHAPE[2:]), generator=generator)
    return x.requires_grad_(), labels


def ready(loss: Any, *tensors: Any) -> Any:  # noqa: ANN401
    """Return the loss after a call like the one to come."""
    loss(*(tensors or problem()))
    assert loss._ready is not None
    return loss


def same_as_alone(call: Call, x: Tensor, rounding: float = 1e-6) -> None:
    """Assert that value and gradient are those of the formula in PyTorch."""
    value = call(x)
    (grad,) = torch.autograd.grad(value, x)
    with alone():
        true = call(x)
        (true_grad,) = torch.autograd.grad(true, x)
    assert value.dtype == true.dtype
    assert_close(value.detach(), true.detach(), rounding)
    assert_close(grad, true_grad, rounding)
