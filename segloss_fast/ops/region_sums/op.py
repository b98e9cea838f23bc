"""region_sums as operators of torch, with their derivatives, and its kernels."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from segloss_fast._native import CUDA_BUILD
from segloss_fast.ops._operator import (
    Kernels,
    Native,
    Triton,
    define,
    define_both,
    differentiate,
    no_float64,
)
from segloss_fast.ops._voxels.labels import must_mark
from segloss_fast.ops.region_sums import native, reference
from segloss_fast.ops.region_sums.options import Options


def _too_many(device: torch.device, dtype: torch.dtype, classes: int = 1) -> str | None:
    """Return why so many classes are too many, None where they are not."""
    if device.type != "cuda":
        return None
    assert CUDA_BUILD is not None
    most = CUDA_BUILD["max_classes"]
    return None if classes <= most else f"the CUDA C++ kernels have at most {most} classes"


def _not_in_triton(device: torch.device, dtype: torch.dtype, classes: int = 1) -> str | None:
    return no_float64(device, dtype)


kernels = Kernels("region_sums", Native(_too_many), Triton(_not_in_triton))


def forward(
    impl: str,
    inputs: list[Tensor],
    targets: list[Tensor],
    voxel_weights: list[Tensor],
    options: Options,
) -> Tensor:
    """Return the rows ``[K, items, C]``, the items of all inputs one after another.

    Args:
        impl: "native" or "triton".
        inputs: ``[B, C, *S]`` each; B and S may differ.
        targets: One per input: class indices ``[B, *S]``, or values ``[B, C, *S]``.
        voxel_weights: None at all, or one per input.
        options: What to compute.

    Raises:
        ValueError: If labels are out of range; on CUDA only in debug mode, else the rows are NaN.
    """
    read = native.read(impl, inputs, targets, voxel_weights)
    if read is not None:
        return native.forward(read, inputs, targets, options)
    launch = kernels.step(impl, "forward")
    if impl == "triton":
        weights = reference.each(voxel_weights, inputs)
        tensors = zip(inputs, targets, weights, strict=True)
        found = [launch(*of_one, options) for of_one in tensors]
        rows, invalid = found[0] if len(found) == 1 else reference.join(found)
    else:
        rows, invalid = launch(inputs, targets, voxel_weights, *native.codes(options))
    must_mark(invalid, inputs[0], targets[0])  # the kernels have marked the rows themselves
    return rows


def backward(
    impl: str,
    grad_rows: Tensor,
    inputs: list[Tensor],
    targets: list[Tensor],
    voxel_weights: list[Tensor],
    options: Options,
) -> list[Tensor]:
    """Return the gradient of each input, given that of the rows."""
    read = native.read(impl, inputs, targets, voxel_weights)
    if read is not None and native.read(impl, [grad_rows]) is not None:
        return native.backward(grad_rows, read, inputs, options)
    launch = kernels.step(impl, "backward")
    if impl != "triton":
        grads: list[Tensor] = launch(
            grad_rows, inputs, targets, voxel_weights, *native.codes(options)
        )
        return grads
    parts = grad_rows.split([x.shape[0] for x in inputs], dim=1)
    weights = reference.each(voxel_weights, inputs)
    tensors = zip(parts, inputs, targets, weights, strict=True)
    return [launch(*of_one, options) for of_one in tensors]


def _split(options: tuple[Any, ...]) -> tuple[Options, str]:
    """Return the record of an operator's options, and impl."""
    *fields, impl = options
    return _record(tuple(fields[0]), *fields[1:]), impl


_record = functools.lru_cache(maxsize=256)(Options)


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
    return forward(impl, inputs, targets, voxel_weights, record)


def _multi_backward(
    grad_rows: Tensor,
    inputs: list[Tensor],
    targets: list[Tensor],
    voxel_weights: list[Tensor],
    *options: Any,  # noqa: ANN401
) -> list[Tensor]:
    record, impl = _split(options)
    return backward(impl, grad_rows, inputs, targets, voxel_weights, record)


def _forward_fake(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    terms: list[str],
    *options: Any,  # noqa: ANN401
) -> Tensor:
    return input.new_empty((len(terms), input.shape[0], input.shape[1]), dtype=torch.float64)


def _multi_forward_fake(
    inputs: list[Tensor],
    targets: list[Tensor],
    voxel_weights: list[Tensor],
    terms: list[str],
    *options: Any,  # noqa: ANN401
) -> Tensor:
    shape = (len(terms), sum(x.shape[0] for x in inputs), inputs[0].shape[1])
    return inputs[0].new_empty(shape, dtype=torch.float64)


def _multi_backward_fake(
    grad_rows: Tensor,
    inputs: list[Tensor],
    *rest: Any,  # noqa: ANN401
) -> list[Tensor]:
    return [torch.empty_like(x) for x in inputs]


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


_OPTIONS = (
    "str[] terms, str activation, str ce_activation, float gamma, int? ignore_index, str impl"
)
_MULTI = f"Tensor[] inputs, Tensor[] targets, Tensor[] voxel_weights, {_OPTIONS}"
_one_operator = define_both(
    kernels,
    ("Tensor input", "Tensor target", "Tensor? voxel_weight"),
    _OPTIONS,
    (_forward, _backward),
    _forward_fake,
    "grad_rows",
)
_multi_operator = define(
    "region_sums_multi", f"({_MULTI}) -> Tensor", _multi_forward, _multi_forward_fake
)
define(
    "region_sums_multi_backward",
    f"(Tensor grad_rows, {_MULTI}) -> Tensor[]",
    _multi_backward,
    _multi_backward_fake,
)
differentiate(kernels, "region_sums_multi", _multi_save, _multi_derivative)


class _Eager(torch.autograd.Function):
    """The operator without the dispatcher: 34 us less a step, of 64, on a batch of small images."""

    @staticmethod
    def forward(ctx: Any, *of_call: Any) -> Tensor:  # noqa: ANN401
        input, target, voxel_weight, options, impl = of_call
        ctx.save_for_backward(input, target, voxel_weight)
        ctx.options = options, impl
        weights = [] if voxel_weight is None else [voxel_weight]
        return forward(impl, [input], [target], weights, options)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        options, impl = ctx.options
        input, target, voxel_weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative may follow: the operator refuses it
            operator = torch.ops.segloss_fast.region_sums_backward
            grad = operator(grads[0], *ctx.saved_tensors, *arguments(options, impl))
        else:
            weights = [] if voxel_weight is None else [voxel_weight]
            (grad,) = backward(impl, grads[0], [input], [target], weights, options)
        return grad, None, None, None, None


def arguments(options: Options, impl: str) -> tuple[Any, ...]:
    """Return the arguments of the operators that are no tensors."""
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
        rows: Tensor = _one_operator(input, target, voxel_weight, *arguments(options, impl))
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
    rows: Tensor = _multi_operator(inputs, targets, voxel_weights, *arguments(options, impl))
    return rows
