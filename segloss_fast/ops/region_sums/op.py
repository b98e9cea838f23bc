"""region_sums as operators of torch: schemas, shape rules, derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops.region_sums import kernels
from segloss_fast.ops.region_sums.options import Options

_OPTIONS = (
    "str[] terms, str activation, str ce_activation, float gamma, int? ignore_index, str impl"
)
_ONE = f"Tensor input, Tensor target, Tensor? voxel_weight, {_OPTIONS}"
_MULTI = f"Tensor[] inputs, Tensor[] targets, Tensor[] voxel_weights, {_OPTIONS}"
for _name, _signature in {
    "region_sums": f"({_ONE}) -> Tensor",
    "region_sums_backward": f"(Tensor grad_rows, {_ONE}) -> Tensor",
    "region_sums_multi": f"({_MULTI}) -> Tensor",
    "region_sums_multi_backward": f"(Tensor grad_rows, {_MULTI}) -> Tensor[]",
}.items():
    torch.library.define(f"segloss_fast::{_name}", _signature)


def _split(options: tuple[Any, ...]) -> tuple[Options, str]:
    """Return the record of an operator's options, and impl."""
    *fields, impl = options
    return Options(tuple(fields[0]), *fields[1:]), impl


def _forward(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    *options: Any,  # noqa: ANN401
) -> Tensor:
    weights = [] if voxel_weight is None else [voxel_weight]
    return _multi_forward([input], [target], weights, *options)


def _backward(
    grad_rows: Tensor,
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    *options: Any,  # noqa: ANN401
) -> Tensor:
    weights = [] if voxel_weight is None else [voxel_weight]
    return _multi_backward(grad_rows, [input], [target], weights, *options)[0]


def _multi_forward(
    inputs: list[Tensor],
    targets: list[Tensor],
    voxel_weights: list[Tensor],
    *options: Any,  # noqa: ANN401
) -> Tensor:
    record, impl = _split(options)
    return kernels.forward(impl, inputs, targets, voxel_weights, record)


def _multi_backward(
    grad_rows: Tensor,
    inputs: list[Tensor],
    targets: list[Tensor],
    voxel_weights: list[Tensor],
    *options: Any,  # noqa: ANN401
) -> list[Tensor]:
    record, impl = _split(options)
    return kernels.backward(impl, grad_rows, inputs, targets, voxel_weights, record)


for _device in ("CPU", "CUDA"):
    torch.library.impl("segloss_fast::region_sums", _device, _forward)
    torch.library.impl("segloss_fast::region_sums_backward", _device, _backward)
    torch.library.impl("segloss_fast::region_sums_multi", _device, _multi_forward)
    torch.library.impl("segloss_fast::region_sums_multi_backward", _device, _multi_backward)


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


@torch.library.register_fake("segloss_fast::region_sums_multi")
def _multi_forward_fake(
    inputs: list[Tensor],
    targets: list[Tensor],
    voxel_weights: list[Tensor],
    terms: list[str],
    *options: Any,  # noqa: ANN401
) -> Tensor:
    shape = (len(terms), sum(x.shape[0] for x in inputs), inputs[0].shape[1])
    return inputs[0].new_empty(shape, dtype=torch.float64)


@torch.library.register_fake("segloss_fast::region_sums_multi_backward")
def _multi_backward_fake(
    grad_rows: Tensor,
    inputs: list[Tensor],
    *rest: Any,  # noqa: ANN401
) -> list[Tensor]:
    return [torch.empty_like(x) for x in inputs]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    ctx.save_for_backward(*inputs[:3])
    ctx.options = inputs[3:]


def _derivative(ctx: Any, grad_rows: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    operator = torch.ops.segloss_fast.region_sums_backward
    return operator(grad_rows, *ctx.saved_tensors, *ctx.options), *[None] * 8


def _multi_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    tensors, targets, weights, *options = inputs
    ctx.save_for_backward(*tensors, *targets, *weights)
    ctx.count = len(tensors)
    ctx.options = options


def _multi_derivative(ctx: Any, grad_rows: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
    n, saved = ctx.count, list(ctx.saved_tensors)
    inputs, targets, weights = saved[:n], saved[n : 2 * n], saved[2 * n :]
    operator = torch.ops.segloss_fast.region_sums_multi_backward
    grads = operator(grad_rows, inputs, targets, weights, *ctx.options)
    return grads, [None] * n, [None] * len(weights), *[None] * 6


def _double_backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    raise RuntimeError(
        "region_sums has no second derivative in its kernels; "
        "use impl='reference' for double backward"
    )


for _name, _rule, _setup in (
    ("region_sums", _derivative, _save),
    ("region_sums_multi", _multi_derivative, _multi_save),
):
    torch.library.register_autograd(f"segloss_fast::{_name}", _rule, setup_context=_setup)
    torch.library.register_autograd(f"segloss_fast::{_name}_backward", _double_backward)


class _Eager(torch.autograd.Function):
    """The operator without the dispatcher: 34 us less a step, of 64, on a batch of small images."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:  # noqa: ANN401
        input, target, voxel_weight, options, impl = arguments
        ctx.save_for_backward(input, target, voxel_weight)
        ctx.options = options, impl
        weights = [] if voxel_weight is None else [voxel_weight]
        return kernels.forward(impl, [input], [target], weights, options)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        options, impl = ctx.options
        input, target, voxel_weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative may follow: the operator refuses it
            operator = torch.ops.segloss_fast.region_sums_backward
            grad = operator(grads[0], *ctx.saved_tensors, *_arguments(options, impl))
        else:
            weights = [] if voxel_weight is None else [voxel_weight]
            (grad,) = kernels.backward(impl, grads[0], [input], [target], weights, options)
        return grad, None, None, None, None


def _arguments(options: Options, impl: str) -> tuple[Any, ...]:
    return (
        list(options.terms),
        options.activation,
        options.ce_activation,
        options.gamma,
        options.ignore_index,
        impl,
    )


def call(
    input: Tensor, target: Tensor, voxel_weight: Tensor | None, options: Options, impl: str
) -> Tensor:
    """Return the rows by the kernels that ``impl`` names."""
    # Compilers, and subclasses such as fake and distributed tensors, need the operator itself.
    if torch.compiler.is_compiling() or type(input) is not Tensor:
        operator = torch.ops.segloss_fast.region_sums
        rows: Tensor = operator(input, target, voxel_weight, *_arguments(options, impl))
        return rows
    return _Eager.apply(input, target, voxel_weight, options, impl)  # type: ignore[no-any-return,no-untyped-call]


def call_multi(
    inputs: list[Tensor],
    targets: list[Tensor],
    voxel_weights: list[Tensor],
    options: Options,
    impl: str,
) -> Tensor:
    """Return the rows of all inputs, ``[K, items, C]``, by the kernels that ``impl`` names."""
    operator = torch.ops.segloss_fast.region_sums_multi
    rows: Tensor = operator(inputs, targets, voxel_weights, *_arguments(options, impl))
    return rows
