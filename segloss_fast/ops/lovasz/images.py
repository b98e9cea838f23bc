"""The histogram of many images, each with a loss of its own, a few of them at a time.

The counters of an image, and its table of g, are as large as those of a whole batch that is pooled:
of many small images they would take far more memory than the input. Here those of some images are
made, used and given back before the next ones come. What an image gets does not depend on that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops._operator import Direct, define, differentiate
from segloss_fast.ops._voxels.labels import must_mark
from segloss_fast.ops.lovasz import bins, op, reference
from segloss_fast.ops.lovasz.options import ACTIVATIONS, Options

MOST = 2**24  # bytes of counters at a time
# Bytes of counters for a bin: voxels and offsets of background and foreground, int64.
_BYTES = 32
# Voxels of an image for each of its bins from which on the tables are kept for backward: they are a
# quarter of the input then, at most. Of smaller images they are made again, which costs little.
_KEPT = 8


def are_many(input: Tensor, options: Options) -> bool:
    """Whether the counters of all images would be too many at a time."""
    images, classes = input.shape[:2]
    number = bins.number(options.octaves, options.bits)
    return options.per_image and images > 1 and images * classes * number * _BYTES > MOST


def histogram(
    input: Tensor, target: Tensor, options: Options, impl: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss and cross-entropy ``[B, C]``, and the voxels ``[B, C, 2]``, foreground last."""
    if impl == "reference":
        return _reference(input, target, options)
    arguments = (
        *(input, target, options.activation, options.octaves, options.bits),
        *(options.ignore_index, options.cross_entropy, impl),
    )
    if op.is_direct(input):
        found: tuple[Tensor, Tensor, Tensor] = Direct.apply(_DIRECTLY, *arguments)  # type: ignore[no-untyped-call]
        return found
    loss, ce, number, *_ = _operator(*arguments)
    return loss, ce, number


def _rounds(input: Tensor, options: Options, most: int = MOST) -> Iterator[slice]:
    """Yield which images come together: those whose counters are at most so many bytes, or one."""
    images, classes = input.shape[:2]
    number = bins.number(options.octaves, options.bits)
    size = max(1, most // (classes * number * _BYTES))
    for first in range(0, images, size):
        yield slice(first, min(first + size, images))


def _all_invalid(parts: list[Tensor]) -> Tensor:
    """Return the number of invalid labels and the first, ``[2]``, from those of parts."""
    count, first = torch.stack(parts).unbind(1)
    place = (count > 0).to(torch.uint8).argmax(0, keepdim=True)  # of equals, the first
    return torch.stack([count.sum(), first.gather(0, place)[0]])


def _factor(invalid: Tensor) -> Tensor:
    """Return what makes NaN of everything if labels are invalid that nobody may look at, else 1."""
    return torch.where(invalid[0] > 0, torch.nan, 1.0)


def _reference(input: Tensor, target: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    losses, ces, numbers, verdicts = [], [], [], []
    for part in _rounds(input, options, MOST // 8):  # its scan takes copies in float64
        x, t = input[part], target[part]
        counts, rows, invalid = reference.count(x, t, options)
        _, table = reference.scan(counts, rows.detach(), options, rows.dtype)
        losses.append(reference.weigh(x, t, table, options))
        ces.append(rows[1])
        numbers.append(counts[0].sum(-1))
        verdicts.append(invalid)
    loss, ce, number = torch.cat(losses), torch.cat(ces), torch.cat(numbers)
    invalid = _all_invalid(verdicts)
    return (loss * _factor(invalid) if must_mark(invalid, input, target) else loss), ce, number


def _forward(input: Tensor, target: Tensor, *arguments: Any) -> tuple[Tensor, ...]:  # noqa: ANN401
    """Return loss, cross-entropy, numbers, tables (none where they are not kept) and invalid."""
    options, impl = _options(arguments)
    losses, ces, numbers, tables, verdicts = [], [], [], [], []
    for part in _rounds(input, options):
        loss, table, ce, number, invalid = _scanned(input[part], target[part], options, impl)
        losses.append(loss)
        ces.append(ce)
        numbers.append(number)
        verdicts.append(invalid)
        if _are_tables_kept(input, options):
            tables.append(table)
    kept = torch.cat(tables) if tables else input.new_empty(0, dtype=op.compute_dtype(input))
    loss, invalid = torch.cat(losses), _all_invalid(verdicts)
    if must_mark(invalid, input, target):
        loss *= _factor(invalid)
    return loss, torch.cat(ces), torch.cat(numbers), kept, invalid


def _fake(input: Tensor, target: Tensor, *arguments: Any) -> tuple[Tensor, ...]:  # noqa: ANN401
    options, _ = _options(arguments)
    images, double = input.shape[:2], torch.float64
    table = (*images, 2, bins.number(options.octaves, options.bits))
    return (
        input.new_empty(images, dtype=double),
        input.new_empty(images, dtype=double),
        input.new_empty((*images, 2), dtype=torch.int64),
        input.new_empty(
            table if _are_tables_kept(input, options) else 0, dtype=op.compute_dtype(input)
        ),
        input.new_empty(2, dtype=double),
    )


def _backward(
    grad_loss: Tensor,
    grad_ce: Tensor,
    tables: Tensor,
    invalid: Tensor,
    input: Tensor,
    target: Tensor,
    *arguments: Any,  # noqa: ANN401
) -> Tensor:
    """Return the gradient of the input.

    Args:
        grad_loss: Gradient of the loss, ``[B, C]``.
        grad_ce: Gradient of the cross-entropy, ``[B, C]``.
        tables: Those of forward; without values where they are to be made again.
        invalid: As from forward.
        input: As in forward, and so are the others.
        target: See input.
        arguments: See input.
    """
    options, impl = _options(arguments)
    launch = op.kernels.step(impl, "backward")
    code = ACTIVATIONS.index(options.activation)
    grad = torch.empty_like(input)
    grad_loss = grad_loss * _factor(invalid)
    for part in _rounds(input, options):
        x, t = input[part], target[part]
        table = tables[part] if tables.numel() else _scanned(x, t, options, impl)[1]
        ce = grad_ce[part] if options.cross_entropy else None
        rule = (code, options.octaves, options.bits, options.ignore_index)
        grad[part] = launch(table, grad_loss[part], ce, x, t, *rule)
    return grad


def _backward_fake(
    grad_loss: Tensor,
    grad_ce: Tensor,
    tables: Tensor,
    invalid: Tensor,
    input: Tensor,
    *rest: Any,  # noqa: ANN401
) -> Tensor:
    return torch.empty_like(input)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
    input, target, *ctx.options = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*output[3:], input, target)


def _derivative(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    operator: Any = torch.ops.segloss_fast.lovasz_images_backward
    operator = _backward if getattr(ctx, "direct", False) else operator
    return operator(*grads[:2], *ctx.saved_tensors, *ctx.options), *[None] * 7


def _are_tables_kept(input: Tensor, options: Options) -> bool:
    number = bins.number(options.octaves, options.bits)
    return input.shape[2:].numel() >= _KEPT * number


def _options(arguments: tuple[Any, ...]) -> tuple[Options, str]:
    activation, octaves, bits, ignore_index, cross_entropy, impl = arguments
    binned = (activation, "histogram", octaves, bits)
    return Options(*binned, True, ignore_index, cross_entropy), impl


def _scanned(input: Tensor, target: Tensor, options: Options, impl: str) -> tuple[Tensor, ...]:
    """Return loss, table, cross-entropy, numbers and invalid; the counters are given back."""
    code = ACTIVATIONS.index(options.activation)
    counted = (True, options.ignore_index, options.cross_entropy)
    launch = op.kernels.step(impl, "count")
    counts, rows, invalid = launch(input, target, code, options.octaves, options.bits, *counted)
    loss, table = op.scan(impl, counts, rows, options, op.compute_dtype(input))
    return loss, table, rows[1], counts[0].sum(-1), invalid


_DATA = "Tensor input, Tensor target"
_BINS = "str activation, int octaves, int bits, int? ignore_index, bool cross_entropy, str impl"
_operator = define(
    "lovasz_images",
    f"({_DATA}, {_BINS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _fake,
)
define(
    "lovasz_images_backward",
    f"(Tensor grad_loss, Tensor grad_ce, Tensor tables, Tensor invalid, {_DATA}, {_BINS})"
    " -> Tensor",
    _backward,
    _backward_fake,
)
differentiate(op.kernels, "lovasz_images", _save, _derivative)
_DIRECTLY = (_forward, _save, _derivative, 3)
