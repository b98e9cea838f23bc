"""Which kernels serve a call of lovasz, and the way to each: the one place that knows."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from segloss_fast._native import why_no_native, why_no_triton
from segloss_fast.ops._invalid import must_mark
from segloss_fast.ops.lovasz import reference
from segloss_fast.ops.lovasz.options import ACTIVATIONS, Options


def why_not(
    impl: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    method: str = "histogram",
) -> str | None:
    """Return why these kernels cannot serve such an input, None where they can."""
    if impl != "triton":
        return why_no_native("lovasz", device)
    reason = why_no_triton("lovasz", device)
    if reason is None and method == "sort":
        return "the Triton kernels have no sort; use method 'histogram' or 'auto'"
    if reason is None and dtype == torch.float64:
        return "the Triton kernels have no float64"
    return reason


def count(impl: str, input: Tensor, target: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Return the counts ``[2, I, C, 2, K]`` and the rows ``[2, I, C]``, as the reference does.

    Args:
        impl: "native" or "triton".
        input: ``[B, C, *S]``.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        options: What to compute.

    Raises:
        ValueError: If labels are out of range; on CUDA only in debug mode, else row 0 says so and
            the loss becomes NaN.
    """
    arguments = (
        ACTIVATIONS.index(options.activation),
        options.octaves,
        options.bits,
        options.per_image,
        options.ignore_index,
        options.cross_entropy,
    )
    if impl == "triton":
        counts, rows, invalid = _triton().count(input, target, *arguments)
    else:
        counts, rows, invalid = torch.ops.segloss_fast._lovasz_count(input, target, *arguments)
    if must_mark(invalid, input, target):
        rows[0] += invalid[0]
    return counts, rows


def scan(
    impl: str, counts: Tensor, rows: Tensor, options: Options, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the loss ``[I, C]`` and the table of g ``[I, C, 2, K]``, as the reference does."""
    if impl == "triton":  # small: PyTorch serves
        return reference.scan(counts, rows, options, dtype)
    loss, table = torch.ops.segloss_fast._lovasz_scan(
        counts,
        rows,
        ACTIVATIONS.index(options.activation),
        options.octaves,
        options.bits,
        dtype == torch.float64,
    )
    return loss, table


def backward(
    impl: str,
    coefficients: Tensor,
    grad_ce: Tensor | None,
    input: Tensor,
    target: Tensor,
    options: Options,
) -> Tensor:
    """Return the gradient of the input.

    Args:
        impl: "native" or "triton".
        coefficients: The table of g times the gradient of the loss, ``[I, C, 2, K]``.
        grad_ce: Gradient of the cross-entropy, ``[I, C]``, or None.
        input: As in the forward pass, and so are target and options.
        target: See input.
        options: See input.
    """
    arguments = (
        coefficients,
        grad_ce,
        input,
        target,
        ACTIVATIONS.index(options.activation),
        options.octaves,
        options.bits,
        options.ignore_index,
    )
    if impl == "triton":
        grad: Tensor = _triton().backward(*arguments)
    else:
        grad = torch.ops.segloss_fast._lovasz_backward(*arguments)
    return grad


def sort(
    input: Tensor, target: Tensor, options: Options, wants_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss ``[I, C]``, the rows ``[3, I, C]`` and g, as the reference does.

    Args:
        input: ``[B, C, *S]``.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        options: What to compute.
        wants_gradient: Whether g is wanted; else it is ``[0]``.

    Raises:
        ValueError: As :func:`count`.
    """
    loss, rows, invalid, g = torch.ops.segloss_fast._lovasz_sort(
        input,
        target,
        ACTIVATIONS.index(options.activation),
        options.per_image,
        options.ignore_index,
        options.cross_entropy,
        wants_gradient,
    )
    if must_mark(invalid, input, target):
        loss = torch.where(invalid[0] > 0, torch.nan, loss)
    return loss, rows, g


def sort_backward(
    g: Tensor,
    grad_loss: Tensor,
    grad_ce: Tensor | None,
    input: Tensor,
    target: Tensor,
    options: Options,
) -> Tensor:
    """Return the gradient of the input, given g and the gradients of the loss ``[I, C]``."""
    grad: Tensor = torch.ops.segloss_fast._lovasz_sort_backward(
        g,
        grad_loss,
        grad_ce,
        input,
        target,
        ACTIVATIONS.index(options.activation),
        options.ignore_index,
    )
    return grad


def _triton() -> ModuleType:
    # Not at import: triton is optional.
    return import_module("segloss_fast.ops.lovasz.triton_launch")
