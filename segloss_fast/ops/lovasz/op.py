"""lovasz as operators of torch: schemas, shape rules, derivatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops.lovasz import bins, kernels
from segloss_fast.ops.lovasz.options import Options

_DATA = "Tensor input, Tensor target"
_BINS = (
    "str activation, int octaves, int bits, bool per_image, int? ignore_index, bool cross_entropy, "
    "str impl"
)
_SORT = (
    "str activation, bool per_image, int? ignore_index, bool cross_entropy, bool wants_gradient, "
    "str impl"
)
for _name, _signature in {
    "lovasz_count": f"({_DATA}, {_BINS}) -> (Tensor, Tensor)",
    "lovasz_histogram": f"({_DATA}, Tensor counts, Tensor rows, {_BINS})"
    " -> (Tensor, Tensor, Tensor)",
    "lovasz_histogram_backward": f"(Tensor coefficients, Tensor? grad_ce, {_DATA}, {_BINS})"
    " -> Tensor",
    "lovasz_sort": f"({_DATA}, {_SORT}) -> (Tensor, Tensor, Tensor)",
    "lovasz_sort_backward": f"(Tensor g, Tensor grad_loss, Tensor? grad_ce, {_DATA}, {_SORT})"
    " -> Tensor",
}.items():
    torch.library.define(f"segloss_fast::{_name}", _signature)


def _binned(arguments: tuple[Any, ...]) -> tuple[Options, str]:
    """Return the record of an operator's options, and impl."""
    activation, *rest, impl = arguments
    return Options(activation, "histogram", *rest), impl


def _sorted(arguments: tuple[Any, ...]) -> Options:
    activation, *rest, _wants_gradient, _impl = arguments
    return Options(activation, "sort", *bins.DEFAULT, *rest)


def _compute(input: Tensor) -> torch.dtype:
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def _count(input: Tensor, target: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    options, impl = _binned(arguments)
    return kernels.count(impl, input, target, options)


def _histogram(
    input: Tensor,
    target: Tensor,
    counts: Tensor,
    rows: Tensor,
    *arguments: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor, Tensor]:
    options, impl = _binned(arguments)
    loss, table = kernels.scan(impl, counts, rows, options, _compute(input))
    return loss, rows[1].clone(), table


def _histogram_backward(
    coefficients: Tensor,
    grad_ce: Tensor | None,
    input: Tensor,
    target: Tensor,
    *arguments: Any,  # noqa: ANN401
) -> Tensor:
    options, impl = _binned(arguments)
    return kernels.backward(impl, coefficients, grad_ce, input, target, options)


def _sort(input: Tensor, target: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
    return kernels.sort(input, target, _sorted(arguments), wants_gradient=arguments[-2])


def _sort_backward(
    g: Tensor,
    grad_loss: Tensor,
    grad_ce: Tensor | None,
    input: Tensor,
    target: Tensor,
    *arguments: Any,  # noqa: ANN401
) -> Tensor:
    return kernels.sort_backward(g, grad_loss, grad_ce, input, target, _sorted(arguments))


for _device in ("CPU", "CUDA"):
    torch.library.impl("segloss_fast::lovasz_count", _device, _count)
    torch.library.impl("segloss_fast::lovasz_histogram", _device, _histogram)
    torch.library.impl("segloss_fast::lovasz_histogram_backward", _device, _histogram_backward)
    torch.library.impl("segloss_fast::lovasz_sort", _device, _sort)
    torch.library.impl("segloss_fast::lovasz_sort_backward", _device, _sort_backward)


def _images(input: Tensor, per_image: bool) -> tuple[int | torch.SymInt, int | torch.SymInt]:
    return input.shape[0] if per_image else 1, input.shape[1]


@torch.library.register_fake("segloss_fast::lovasz_count")
def _count_fake(input: Tensor, target: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    options, _ = _binned(arguments)
    images = _images(input, options.per_image)
    size = bins.number(options.octaves, options.bits)
    counts = input.new_empty((2, *images, 2, size), dtype=torch.int64)
    return counts, input.new_empty((2, *images), dtype=torch.float64)


@torch.library.register_fake("segloss_fast::lovasz_histogram")
def _histogram_fake(
    input: Tensor,
    target: Tensor,
    counts: Tensor,
    rows: Tensor,
    *arguments: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor, Tensor]:
    table = input.new_empty(counts.shape[1:], dtype=_compute(input))
    return torch.empty_like(rows[1]), torch.empty_like(rows[1]), table


@torch.library.register_fake("segloss_fast::lovasz_histogram_backward")
def _histogram_backward_fake(
    coefficients: Tensor,
    grad_ce: Tensor | None,
    input: Tensor,
    *rest: Any,  # noqa: ANN401
) -> Tensor:
    return torch.empty_like(input)


@torch.library.register_fake("segloss_fast::lovasz_sort")
def _sort_fake(input: Tensor, target: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
    images = _images(input, _sorted(arguments).per_image)
    loss = input.new_empty(images, dtype=torch.float64)
    rows = input.new_empty((3, *images), dtype=torch.float64)
    return loss, rows, input.new_empty(input.shape if arguments[-2] else 0, dtype=_compute(input))


@torch.library.register_fake("segloss_fast::lovasz_sort_backward")
def _sort_backward_fake(
    g: Tensor,
    grad_loss: Tensor,
    grad_ce: Tensor | None,
    input: Tensor,
    *rest: Any,  # noqa: ANN401
) -> Tensor:
    return torch.empty_like(input)


def _histogram_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
    input, target, _counts, _rows, *ctx.options = inputs
    ctx.save_for_backward(input, target, output[2])


def _histogram_derivative(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    input, target, table = ctx.saved_tensors
    coefficients = table * grads[0].to(table.dtype)[:, :, None, None]
    grad_ce = grads[1] if ctx.options[-2] else None
    operator = torch.ops.segloss_fast.lovasz_histogram_backward
    return operator(coefficients, grad_ce, input, target, *ctx.options), *[None] * 10


def _sort_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
    input, target, *ctx.options = inputs
    ctx.save_for_backward(input, target, output[2])


def _sort_derivative(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    input, target, g = ctx.saved_tensors
    grad_ce = grads[1][1] if ctx.options[3] else None
    operator = torch.ops.segloss_fast.lovasz_sort_backward
    return operator(g, grads[0], grad_ce, input, target, *ctx.options), *[None] * 7


def _double_backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    raise RuntimeError(
        "lovasz has no second derivative in its kernels; use impl='reference' for double backward"
    )


for _name, _rule, _setup in (
    ("lovasz_histogram", _histogram_derivative, _histogram_save),
    ("lovasz_sort", _sort_derivative, _sort_save),
):
    torch.library.register_autograd(f"segloss_fast::{_name}", _rule, setup_context=_setup)
    torch.library.register_autograd(f"segloss_fast::{_name}_backward", _double_backward)


def count(input: Tensor, target: Tensor, options: Options, impl: str) -> tuple[Tensor, Tensor]:
    """Return the counts and the rows, by the kernels that ``impl`` names; without derivative."""
    operator = torch.ops.segloss_fast.lovasz_count
    counts, rows = operator(input.detach(), target.detach(), *_bin_arguments(options, impl))
    return counts, rows


def histogram(
    input: Tensor, target: Tensor, counts: Tensor, rows: Tensor, options: Options, impl: str
) -> tuple[Tensor, Tensor]:
    """Return loss and cross-entropy ``[I, C]`` of the counts, whose voxels input and target are."""
    operator = torch.ops.segloss_fast.lovasz_histogram
    loss, ce, _ = operator(input, target, counts, rows, *_bin_arguments(options, impl))
    return loss, ce


def sort(input: Tensor, target: Tensor, options: Options, impl: str) -> tuple[Tensor, Tensor]:
    """Return the loss ``[I, C]`` and the rows ``[3, I, C]``."""
    loss, rows, _ = torch.ops.segloss_fast.lovasz_sort(
        input,
        target,
        options.activation,
        options.per_image,
        options.ignore_index,
        options.cross_entropy,
        torch.is_grad_enabled() and input.requires_grad,
        impl,
    )
    return loss, rows


def _bin_arguments(options: Options, impl: str) -> tuple[Any, ...]:
    return (
        options.activation,
        options.octaves,
        options.bits,
        options.per_image,
        options.ignore_index,
        options.cross_entropy,
        impl,
    )
