"""lovasz as operators of torch, with their derivatives, and its kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops._operator import (
    Direct,
    Kernels,
    Native,
    Triton,
    define,
    differentiate,
    no_float64,
)
from segloss_fast.ops._voxels.labels import marked, must_mark
from segloss_fast.ops.lovasz import bins, reference
from segloss_fast.ops.lovasz.options import ACTIVATIONS, Options


def _not_in_triton(
    device: torch.device, dtype: torch.dtype, method: str = "histogram"
) -> str | None:
    if method == "sort":
        return "the Triton kernels have no sort; use method 'histogram' or 'auto'"
    return no_float64(device, dtype)


kernels = Kernels("lovasz", Native(), Triton(_not_in_triton))


def _numbered(arguments: tuple[Any, ...]) -> tuple[tuple[Any, ...], str]:
    """Return an operator's options with the number of the activation, and impl."""
    activation, *rest, impl = arguments
    return (ACTIVATIONS.index(activation), *rest), impl


def compute_dtype(input: Tensor) -> torch.dtype:
    """Return the dtype that kernels compute in."""
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def _images(input: Tensor, per_image: bool) -> tuple[int | torch.SymInt, int | torch.SymInt]:
    return input.shape[0] if per_image else 1, input.shape[1]


def _count(input: Tensor, target: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return the counts ``[2, I, C, 2, K]`` and the rows ``[2, I, C]``, as the reference does.

    Of labels out of range, on CUDA and not in debug mode, row 0 says so, and the loss becomes NaN.
    """
    options, impl = _numbered(arguments)
    launch = kernels.step(impl, "count")
    counts, rows, invalid = launch(input, target, *options)
    if must_mark(invalid, input, target):
        rows[0] += invalid[0]
    return counts, rows


def _count_fake(input: Tensor, target: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    _, octaves, bits, per_image, *_ = arguments
    images = _images(input, per_image)
    counts = input.new_empty((2, *images, 2, bins.number(octaves, bits)), dtype=torch.int64)
    return counts, input.new_empty((2, *images), dtype=torch.float64)


def scan(
    impl: str, counts: Tensor, rows: Tensor, options: Options, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the loss ``[I, C]`` and the table of g ``[I, C, 2, K]``, as the reference does."""
    if impl == "triton":  # small: PyTorch serves
        return reference.scan(counts, rows, options, dtype)
    code = ACTIVATIONS.index(options.activation)
    launch = kernels.step(impl, "scan")
    loss, table = launch(counts, rows, code, options.octaves, options.bits, dtype == torch.float64)
    return loss, table


def _histogram(
    input: Tensor,
    target: Tensor,
    counts: Tensor,
    rows: Tensor,
    *arguments: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor, Tensor]:
    activation, *rest, impl = arguments
    options = Options(activation, "histogram", *rest)
    loss, table = scan(impl, counts, rows, options, compute_dtype(input))
    return loss, rows[1].clone(), table


def _histogram_fake(
    input: Tensor,
    target: Tensor,
    counts: Tensor,
    rows: Tensor,
    *arguments: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor, Tensor]:
    table = input.new_empty(counts.shape[1:], dtype=compute_dtype(input))
    return torch.empty_like(rows[1]), torch.empty_like(rows[1]), table


def _histogram_backward(
    table: Tensor,
    grad_loss: Tensor,
    grad_ce: Tensor | None,
    input: Tensor,
    target: Tensor,
    *arguments: Any,  # noqa: ANN401
) -> Tensor:
    """Return the gradient of the input.

    Args:
        table: Of g, ``[I, C, 2, K]``.
        grad_loss: Gradient of the loss, ``[I, C]``.
        grad_ce: Gradient of the cross-entropy, ``[I, C]``, or None.
        input: As in the forward pass, and so are the others.
        target: See input.
        arguments: See input.
    """
    (code, octaves, bits, _, ignore_index, _), impl = _numbered(arguments)
    launch = kernels.step(impl, "backward")
    incoming = (table, grad_loss, grad_ce)
    grad: Tensor = launch(*incoming, input, target, code, octaves, bits, ignore_index)
    return grad


def _histogram_backward_fake(
    table: Tensor, grad_loss: Tensor, grad_ce: Tensor | None, input: Tensor, *rest: object
) -> Tensor:
    return torch.empty_like(input)


def _histogram_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
    input, target, _counts, _rows, *ctx.options = inputs
    ctx.save_for_backward(input, target, output[2])


def _histogram_derivative(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    input, target, table = ctx.saved_tensors
    grad_ce = grads[1] if ctx.options[-2] else None
    operator: Any = torch.ops.segloss_fast.lovasz_histogram_backward
    operator = _histogram_backward if getattr(ctx, "direct", False) else operator
    return operator(table, grads[0], grad_ce, input, target, *ctx.options), *[None] * 10


def _sort(input: Tensor, target: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
    """Return the loss ``[I, C]``, the rows ``[3, I, C]`` and g, as the reference does."""
    options, _ = _numbered(arguments)
    launch = kernels.step("native", "sort")
    loss, rows, invalid, g = launch(input, target, *options)
    return marked(loss, invalid, input, target), rows, g


def _sort_fake(input: Tensor, target: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN401
    _, per_image, _, _, wants_gradient, _ = arguments
    images = _images(input, per_image)
    loss = input.new_empty(images, dtype=torch.float64)
    rows = input.new_empty((3, *images), dtype=torch.float64)
    return (
        loss,
        rows,
        input.new_empty(input.shape if wants_gradient else 0, dtype=compute_dtype(input)),
    )


def _sort_backward(
    g: Tensor,
    grad_loss: Tensor,
    grad_ce: Tensor | None,
    input: Tensor,
    target: Tensor,
    *arguments: Any,  # noqa: ANN401
) -> Tensor:
    (code, _, ignore_index, *_), _ = _numbered(arguments)
    launch = kernels.step("native", "sort_backward")
    grad: Tensor = launch(g, grad_loss, grad_ce, input, target, code, ignore_index)
    return grad


def _sort_backward_fake(
    g: Tensor, grad_loss: Tensor, grad_ce: Tensor | None, input: Tensor, *rest: object
) -> Tensor:
    return torch.empty_like(input)


def _sort_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
    input, target, *ctx.options = inputs
    ctx.save_for_backward(input, target, output[2])


def _sort_derivative(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    input, target, g = ctx.saved_tensors
    grad_ce = grads[1][1] if ctx.options[3] else None
    operator: Any = torch.ops.segloss_fast.lovasz_sort_backward
    operator = _sort_backward if getattr(ctx, "direct", False) else operator
    return operator(g, grads[0], grad_ce, input, target, *ctx.options), *[None] * 7


_DATA = "Tensor input, Tensor target"
_BINS = (
    "str activation, int octaves, int bits, bool per_image, int? ignore_index, bool cross_entropy, "
    "str impl"
)
_SORT = (
    "str activation, bool per_image, int? ignore_index, bool cross_entropy, bool wants_gradient, "
    "str impl"
)
_count_operator = define(
    "lovasz_count", f"({_DATA}, {_BINS}) -> (Tensor, Tensor)", _count, _count_fake
)
_histogram_operator = define(
    "lovasz_histogram",
    f"({_DATA}, Tensor counts, Tensor rows, {_BINS}) -> (Tensor, Tensor, Tensor)",
    _histogram,
    _histogram_fake,
)
define(
    "lovasz_histogram_backward",
    f"(Tensor table, Tensor grad_loss, Tensor? grad_ce, {_DATA}, {_BINS}) -> Tensor",
    _histogram_backward,
    _histogram_backward_fake,
)
_sort_operator = define(
    "lovasz_sort", f"({_DATA}, {_SORT}) -> (Tensor, Tensor, Tensor)", _sort, _sort_fake
)
define(
    "lovasz_sort_backward",
    f"(Tensor g, Tensor grad_loss, Tensor? grad_ce, {_DATA}, {_SORT}) -> Tensor",
    _sort_backward,
    _sort_backward_fake,
)
differentiate(kernels, "lovasz_histogram", _histogram_save, _histogram_derivative)
differentiate(kernels, "lovasz_sort", _sort_save, _sort_derivative)
_HISTOGRAM = (_histogram, _histogram_save, _histogram_derivative, 2)
_SORT_DIRECTLY = (_sort, _sort_save, _sort_derivative, 2)


def count(input: Tensor, target: Tensor, options: Options, impl: str) -> tuple[Tensor, Tensor]:
    """Return the counts and the rows, by the kernels that ``impl`` names; without derivative."""
    arguments = _bin_arguments(options, impl)
    if is_direct(input):
        return _count(input.detach(), target, *arguments)
    # Detached: torch warns of an operator without derivative where gradients are recorded.
    counts, rows = _count_operator(input.detach(), target.detach(), *arguments)
    return counts, rows


def is_direct(input: Tensor) -> bool:
    """Whether nobody needs the operator itself, as compilers and subclasses of tensors do."""
    return type(input) is Tensor and not torch.compiler.is_compiling()


def histogram(
    input: Tensor, target: Tensor, counts: Tensor, rows: Tensor, options: Options, impl: str
) -> tuple[Tensor, Tensor]:
    """Return loss and cross-entropy ``[I, C]`` of the counts, whose voxels input and target are."""
    arguments = (input, target, counts, rows, *_bin_arguments(options, impl))
    if is_direct(input):
        found: tuple[Tensor, Tensor] = Direct.apply(_HISTOGRAM, *arguments)  # type: ignore[no-untyped-call]
        return found
    loss, ce, _ = _histogram_operator(*arguments)
    return loss, ce


def sort(input: Tensor, target: Tensor, options: Options, impl: str) -> tuple[Tensor, Tensor]:
    """Return the loss ``[I, C]`` and the rows ``[3, I, C]``."""
    arguments = (
        input,
        target,
        options.activation,
        options.per_image,
        options.ignore_index,
        options.cross_entropy,
        torch.is_grad_enabled() and input.requires_grad,
        impl,
    )
    if is_direct(input):
        found: tuple[Tensor, Tensor] = Direct.apply(_SORT_DIRECTLY, *arguments)  # type: ignore[no-untyped-call]
        return found
    loss, rows, _ = _sort_operator(*arguments)
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
