"""Which kernels serve a call of soft_skeleton, and the way to each."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor

from segloss_fast import _native
from segloss_fast.ops import _choice


def why_not(impl: str, device: torch.device) -> str | None:
    """Return why these kernels cannot serve such a tensor, None where they can."""
    if impl == "triton":
        return _native.why_no_triton("soft_skeleton", device)
    return _native.why_no_native("soft_skeleton", device, on_cuda=False)


def choose(impl: str, device: torch.device) -> str:
    """Return "native", "triton" or "reference"; see :func:`_choice.choose`."""
    return _choice.choose(impl, device, why_not)


def _way_to(name: str, impl: str) -> Callable[..., Tensor]:
    if impl == "native":
        native = {"forward": "_soft_skeleton", "backward": "_soft_skeleton_backward"}
        found: Callable[..., Tensor] = getattr(torch.ops.segloss_fast, native[name])
        return found
    # Not at import: triton is optional.
    found = getattr(import_module("segloss_fast.ops.soft_skeleton.triton_launch"), name)
    return found


def forward(values: Tensor, iterations: int, first: int, impl: str) -> Tensor:
    """Return the skeletons.

    Args:
        values: As for the reference.
        iterations: As for the reference.
        first: As for the reference.
        impl: ``"native"`` or ``"triton"``.
    """
    return _way_to("forward", impl)(values, iterations, first)


def backward(grad: Tensor, values: Tensor, iterations: int, first: int, impl: str) -> Tensor:
    """Return the gradient of the values, given that of the skeletons."""
    return _way_to("backward", impl)(grad, values, iterations, first)
