"""region_sums as an operator of torch: schema, shape rule, derivative, kernels by device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segloss_fast import _check
from segloss_fast._native import _C
from segloss_fast.ops.region_sums.options import ACTIVATIONS, TERMS, Options

KERNELS = ("native",)  # in the order that impl="auto" prefers

_ARGUMENTS = (
    "Tensor input, Tensor target, Tensor? voxel_weight, str[] terms, str activation, "
    "str ce_activation, float gamma, int? ignore_index, str impl"
)
torch.library.define("segloss_fast::region_sums", f"({_ARGUMENTS}) -> Tensor")
torch.library.define(
    "segloss_fast::region_sums_backward", f"(Tensor grad_rows, {_ARGUMENTS}) -> Tensor"
)


def why_not(impl: str, device: torch.device) -> str | None:
    """Return why these kernels cannot serve a call on this device, None where they can."""
    if impl == "triton":
        return "region_sums has no Triton kernels yet"
    if _C is None:
        return (
            "the native module was not built; install a C++ compiler and reinstall with "
            "SEGLOSS_BUILD=require to see why"
        )
    if device.type != "cpu":
        return f"region_sums has no native kernels for {device.type} tensors yet"
    return None


def _codes(
    terms: list[str], activation: str, ce_activation: str, gamma: float, ignore_index: int | None
) -> tuple[list[int], int, int, float, int | None]:
    """Number the names as the native kernels do."""
    return (
        [TERMS.index(name) for name in terms],
        ACTIVATIONS.index(activation),
        ACTIVATIONS.index(ce_activation),
        gamma,
        ignore_index,
    )


def _forward_cpu(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    *options: Any,  # noqa: ANN401
) -> Tensor:
    rows, invalid = torch.ops.segloss_fast._region_sums_cpu(
        input, target, voxel_weight, *_codes(*options[:-1])
    )
    if target.dim() < input.dim():
        _check.check_labels(invalid, input.shape[1])
    result: Tensor = rows
    return result


def _backward_cpu(
    grad_rows: Tensor,
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    *options: Any,  # noqa: ANN401
) -> Tensor:
    grad: Tensor = torch.ops.segloss_fast._region_sums_cpu_backward(
        grad_rows, input, target, voxel_weight, *_codes(*options[:-1])
    )
    return grad


torch.library.impl("segloss_fast::region_sums", "CPU", _forward_cpu)
torch.library.impl("segloss_fast::region_sums_backward", "CPU", _backward_cpu)


@torch.library.register_fake("segloss_fast::region_sums")
def _forward_fake(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    terms: list[str],
    *options: Any,  # noqa: ANN401
) -> Tensor:
    return input.new_empty((len(terms), input.shape[0], input.shape[1]), dtype=torch.float64)


@torch.library.register_fake("segloss_fast::region_sums_backward")
def _backward_fake(grad_rows: Tensor, input: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
    return torch.empty_like(input)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    ctx.save_for_backward(*inputs[:3])
    ctx.options = inputs[3:]


def _backward(ctx: Any, grad_rows: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    operator = torch.ops.segloss_fast.region_sums_backward
    return operator(grad_rows, *ctx.saved_tensors, *ctx.options), *[None] * 8


def _double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    raise RuntimeError(
        "region_sums has no second derivative in its kernels; "
        "use impl='reference' for double backward"
    )


torch.library.register_autograd(
    "segloss_fast::region_sums", _backward, setup_context=_setup_context
)
torch.library.register_autograd("segloss_fast::region_sums_backward", _double_backward)


class _Eager(torch.autograd.Function):
    """The operator without the dispatcher: 34 us less a step, of 64, on a batch of small images."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(*arguments[:3])
        ctx.options = arguments[3:]
        return _forward_cpu(*arguments)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        if torch.is_grad_enabled():  # a second derivative may follow: the operator refuses it
            return _backward(ctx, *grads)
        return _backward_cpu(*grads, *ctx.saved_tensors, *ctx.options), *[None] * 8


def call(
    input: Tensor, target: Tensor, voxel_weight: Tensor | None, options: Options, impl: str
) -> Tensor:
    """Return the rows by the kernels that ``impl`` names."""
    arguments = (
        input,
        target,
        voxel_weight,
        list(options.terms),
        options.activation,
        options.ce_activation,
        options.gamma,
        options.ignore_index,
        impl,
    )
    # Compilers, and subclasses such as fake and distributed tensors, need the operator itself.
    if torch.compiler.is_compiling() or type(input) is not Tensor:
        rows: Tensor = torch.ops.segloss_fast.region_sums(*arguments)
        return rows
    return _Eager.apply(*arguments)  # type: ignore[no-any-return,no-untyped-call]
