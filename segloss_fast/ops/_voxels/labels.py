"""Labels: what they stand for in plain PyTorch, which are invalid, and the verdict on those.

A label that is no class is an error, or makes the result NaN where nobody may look at it.
"""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from segloss_fast._check import is_batched
from segloss_fast._impl import debug_enabled
from segloss_fast.ops._voxels.maps import row_dtype


def can_hold(dtype: torch.dtype, value: int) -> bool:
    """Whether a label can have the value; torch would compare with it wrapped around or rounded."""
    if dtype == torch.bool:
        return True
    if not dtype.is_floating_point:
        return torch.iinfo(dtype).min <= value <= torch.iinfo(dtype).max
    exact = abs(value) // (value & -value) if value else 0  # without the zeros at its end
    return abs(value) <= torch.finfo(dtype).max and exact * torch.finfo(dtype).eps < 2


def is_class(labels: Tensor, c: int, classes: int) -> Tensor:
    """Return where labels are those of class c; the label of the only class is 1."""
    c = 1 if classes == 1 else c
    if can_hold(labels.dtype, c):
        return labels == c
    return torch.zeros_like(labels, dtype=torch.bool)


def counted_voxels(input: Tensor, target: Tensor, ignore_index: int | None) -> Tensor | None:
    """Return which voxels are not ignored, bool ``[B, 1, *S]``; None where all of them count.

    Args:
        input: ``[B, C, *S]``, only its shape matters.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        ignore_index: The label of ignored voxels, or the value of those of one class, or None.
    """
    dense = target.dim() == input.dim()
    if ignore_index is None or (dense and input.shape[1] > 1):
        return None
    if not can_hold(target.dtype, ignore_index):
        return None
    counted = target != ignore_index
    return counted if dense else counted[:, None]


def unit_values(
    values: Tensor, ignore_index: int | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the values of one class, 0 where ignored, which voxels count, and the invalid ones.

    Args:
        values: ``[B, 1, *S]``, those outside of [0, 1] invalid, and NaN.
        ignore_index: The value of ignored voxels, or None.
        dtype: Of the values returned.
    """
    bad = outside(values)
    t = values.to(dtype)
    counted = counted_voxels(values, values, ignore_index)
    if counted is not None:
        bad = bad & counted
        t = t.masked_fill(~counted, 0)
    return t, counted, count_invalid(values.detach(), bad)


def outside(values: Tensor) -> Tensor:
    """Return which values of one class do not lie in [0, 1]; a NaN does not."""
    return ~((values >= 0) & (values <= 1))


def trusted_unit_values(
    values: Tensor, ignore_index: int | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None] | None:
    """Return the values of one class and which voxels count, as numbers; None if one is invalid.

    Only of ordinary tensors on the CPU, whose values Python may look at.
    """
    counted = counted_voxels(values, values, ignore_index)
    if counted is not None:
        values = values.masked_fill(~counted, 0)
        counted = counted.to(dtype)
    if values.numel():
        low, high = values.detach().aminmax()
        if not (low >= 0 and high <= 1):  # nor where one is NaN
            return None
    return values.to(dtype), counted


def one_hot(
    labels: Tensor, classes: int, ignore_index: int | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return one-hot values, which voxels count ``[B, 1, *S]``, and the invalid labels.

    None instead of the voxels that count where none is ignored: whatever the label.
    """
    counted = counted_voxels(labels[:, None], labels, ignore_index)
    # The label of the only class is 1, and 0 that of the background.
    index = torch.arange(classes, device=labels.device) + (classes == 1)
    index = index.view(1, -1, *[1] * (labels.dim() - 1))
    mask = labels[:, None] == index
    bad = out_of_range(labels, classes)
    if counted is not None:
        mask = mask & counted
        bad = bad & counted[:, 0]
        counted = counted & ~bad[:, None]
    return mask.to(dtype), counted, count_invalid(labels, bad)


def out_of_range(labels: Tensor, classes: int) -> Tensor:
    """Return which labels are no class; of one class they are 0 and 1."""
    if labels.dtype == torch.bool:
        return torch.zeros_like(labels)
    last = max(classes - 1, 1)
    above = labels > last if can_hold(labels.dtype, last) else torch.zeros_like(labels).bool()
    if labels.is_floating_point():  # NaN and fractions are none either
        return above | (labels < 0) | (labels != labels.trunc())
    return above | (labels < 0) if labels.dtype.is_signed else above


def count_invalid(labels: Tensor, bad: Tensor) -> Tensor:
    """Return ``[2]``: the number of bad labels, and the first (0 where there is none)."""
    dtype = row_dtype(labels.device)
    if labels.numel() == 0:
        return labels.new_zeros(2, dtype=dtype)
    count = bad.sum()
    place = bad.flatten().to(torch.uint8).argmax(0, keepdim=True)  # of equals, the first
    first = labels.flatten().gather(0, place)[0].to(dtype)
    return torch.stack([count.to(dtype), torch.where(count > 0, first, 0)])


def trusted_one_hot(
    labels: Tensor, classes: int, ignore_index: int | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None] | None:
    """Return one-hot values and which voxels count, as numbers; None if a label is no class.

    Where a voxel does not count, its one-hot values are those of some class. Only of ordinary
    tensors on the CPU, whose values Python may look at.
    """
    counted = counted_voxels(labels[:, None], labels, ignore_index)
    if counted is not None:
        labels = labels.masked_fill(~counted[:, 0], 0)
        counted = counted.to(dtype)
    if classes == 1:  # the label itself is the value
        read = trusted_unit_values(labels[:, None], None, dtype)
        if read is None or (labels.is_floating_point() and not torch.equal(labels.trunc(), labels)):
            return None
        return read[0], counted
    if labels.is_floating_point() and not torch.equal(labels.trunc(), labels):
        return None
    numbers = labels.to(dtype)  # exact where they are small enough for a class
    if labels.numel():
        low, high = numbers.detach().aminmax()
        if not (float(low) >= 0 and float(high) < classes):
            return None
    # A comparison of numbers that gives numbers is faster than one that gives bool.
    index = torch.arange(classes, dtype=dtype, device=labels.device)
    values = labels.new_empty((labels.shape[0], classes, *labels.shape[1:]), dtype=dtype)
    index = index.view(1, -1, *[1] * (labels.dim() - 1))
    return torch.eq(numbers[:, None], index, out=values), counted


def must_mark(invalid: Tensor, input: Tensor, target: Tensor) -> bool:
    """Raise where invalid labels are looked for; return whether they must make the result NaN.

    On the CPU they are looked for. On a GPU finding out would need a synchronisation, which only
    debug mode makes; compilers and torch.func.vmap let nobody look.

    Args:
        invalid: ``[2]``: how many such labels there are, and the first.
        input: ``[B, C, *S]``.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.

    Raises:
        ValueError: If there are some.
    """
    if not _can_be_invalid(input, target):
        return False
    if is_batched(invalid):
        return True
    classes, dense = input.shape[1], target.dim() == input.dim()
    if input.device.type == "cpu" and not torch.compiler.is_compiling():
        check_labels(invalid, classes, dense=dense)
    elif debug_enabled():
        check_labels_on_device(invalid, classes, dense=dense)
    else:
        return True
    return False


def marked(values: Tensor, invalid: Tensor, input: Tensor, target: Tensor) -> Tensor:
    """Raise as :func:`must_mark`; return the values, NaN if labels are invalid but not looked for.

    Args:
        values: Of any shape.
        invalid: As for :func:`must_mark`.
        input: Likewise.
        target: Likewise.
    """
    if not must_mark(invalid, input, target):
        return values
    return torch.where(invalid[0] > 0, torch.nan, values)


def _can_be_invalid(input: Tensor, target: Tensor) -> bool:
    """Whether a target, checked, holds what must be looked at: labels, or values of one class."""
    return target.dim() < input.dim() or input.shape[1] == 1


def check_labels_on_device(invalid: Tensor, classes: int, *, dense: bool = False) -> None:
    """Wait for the device and raise ValueError if labels are out of range, as debug mode does."""
    if invalid.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "debug mode looks at the labels, which needs a synchronisation that the capture of a "
            "CUDA graph forbids; leave debug mode before capturing"
        )
    check_labels(invalid, classes, dense=dense)


def check_labels(invalid: Tensor, classes: int, *, dense: bool = False) -> None:
    """Raise ValueError if a kernel met labels outside the classes, or values outside [0, 1].

    Args:
        invalid: ``[2]`` float64: how many such labels there are, and the first.
        classes: Number of classes.
        dense: Whether the target holds the values of one class.
    """
    count, first = invalid.tolist()
    if count:
        refuse_labels(count, first, classes, dense=dense)


def refuse_labels(count: float, first: float, classes: int, *, dense: bool = False) -> NoReturn:
    """Raise the error of so many invalid labels; arguments as for :func:`check_labels`."""
    expected = "0, 1" if classes == 1 else f"class indices in [0, {classes})"
    raise ValueError(
        f"target must hold {'values in [0, 1]' if dense else expected} or ignore_index, "
        f"got {count:.0f} other values, the first of which is {_exactly(first)}"
    )


def _exactly(value: float) -> str:
    """Return a number as people write it: all digits of an integer."""
    return f"{value:.0f}" if value.is_integer() and abs(value) < 2**63 else f"{value!r}"
