"""structural_error as operators of torch: schemas, shape rules, derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops.structural_error import kernels

_ARGUMENTS = (
    "Tensor values, Tensor target, int window_size, float sigma, float constant, int first,"
    " str impl"
)
for _name, _arguments, _kernel in (
    ("structural_error", _ARGUMENTS, kernels.forward),
    ("structural_error_backward", f"Tensor grad, {_ARGUMENTS}", kernels.backward),
):
    torch.library.define(f"segloss_fast::{_name}", f"({_arguments}) -> Tensor")
    for _device in ("CPU", "CUDA"):
        torch.library.impl(f"segloss_fast::{_name}", _device, _kernel)


@torch.library.register_fake("segloss_fast::structural_error")
def _fake(values: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
    return torch.empty_like(values)


@torch.library.register_fake("segloss_fast::structural_error_backward")
def _backward_fake(grad: Tensor, values: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
    return torch.empty_like(values)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    values, target, *ctx.options = inputs
    ctx.save_for_backward(values, target)


def _derivative(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    operator = torch.ops.segloss_fast.structural_error_backward
    return operator(grad, *ctx.saved_tensors, *ctx.options), *[None] * 6


def _double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    raise RuntimeError(
        "structural_error has no second derivative in its kernels; "
        "use impl='reference' for double backward"
    )


torch.library.register_autograd("segloss_fast::structural_error", _derivative, setup_context=_save)
torch.library.register_autograd("segloss_fast::structural_error_backward", _double_backward)


def call(
    values: Tensor,
    target: Tensor,
    window_size: int,
    sigma: float,
    constant: float,
    first: int,
    impl: str,
) -> Tensor:
    """Return the errors by the kernels that ``impl`` names."""
    operator = torch.ops.segloss_fast.structural_error
    result: Tensor = operator(values, target, window_size, sigma, constant, first, impl)
    return result
