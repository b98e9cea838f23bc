"""The definition of lovasz, in plain differentiable PyTorch on any device.

Tensors per image and class have the shape ``[I, C]``: I is the number of items where each has a
loss of its own, else 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from segloss_fast.ops._voxels.labels import (
    count_invalid,
    counted_voxels,
    out_of_range,
    outside,
)
from segloss_fast.ops._voxels.maps import row_dtype
from segloss_fast.ops.lovasz import bins
from segloss_fast.ops.lovasz.increments import increments
from segloss_fast.ops.lovasz.options import Options


@dataclass(frozen=True)
class Voxels:
    """Input and target as the definition reads them.

    Attributes:
        x: The input in float32 (float64 if it is), 0 where voxels are ignored, ``[B, C, *S]``.
        foreground: t, bool ``[B, C, *S]``.
        counted: Which voxels count, bool ``[B, 1, *S]``; None for all.
        invalid: ``[2]``: the number of labels out of range, and the first.
    """

    x: Tensor
    foreground: Tensor
    counted: Tensor | None
    invalid: Tensor


def read(input: Tensor, target: Tensor, ignore_index: int | None) -> Voxels:
    """Return the voxels.

    Args:
        input: ``[B, C, *S]``.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``, foreground above one half.
        ignore_index: The label of voxels that do not count, or None.
    """
    x = input.to(torch.float64 if input.dtype == torch.float64 else torch.float32)
    invalid = torch.zeros(2, dtype=row_dtype(x.device), device=x.device)
    counted = counted_voxels(input, target, ignore_index)
    bad = None
    if target.dim() == x.dim():
        foreground = target > 0.5
        if x.shape[1] == 1:
            bad = outside(target)
            foreground = foreground & ~bad
    else:
        first, classes = (1, 2) if x.shape[1] == 1 else (0, x.shape[1])
        index = torch.arange(first, classes, device=x.device)
        foreground = target[:, None] == index.view(1, -1, *[1] * (target.dim() - 1))
        bad = out_of_range(target, x.shape[1])[:, None]
    if counted is not None:
        x = x.masked_fill(~counted, 0)  # so that a NaN there does not count
        foreground = foreground & counted
    if bad is not None:
        invalid = count_invalid(target, bad if counted is None else bad & counted)
    return Voxels(x, foreground, counted, invalid)


def errors(x: Tensor, foreground: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """Return m and 1 - m, ``[B, C, *S]``, each accurate relative to itself; hinge: m and m.

    Args:
        x: ``[B, C, *S]``, float32 or float64.
        foreground: t, bool ``[B, C, *S]``.
        activation: Of the options.
    """
    if activation == "hinge":
        m = torch.relu(1 - torch.where(foreground, x, -x))
        return m, m
    # Of p and 1 - p the smaller is computed and the other derived from it: so both are accurate,
    # and their derivatives too.
    if activation == "sigmoid":
        small = torch.where(x > 0, -x, x).sigmoid()
        p, q = torch.where(x > 0, 1 - small, small), torch.where(x > 0, small, 1 - small)
    else:
        e = (x - x.amax(1, keepdim=True).detach()).exp()
        top = e == 1  # no other class can have p > 1/2
        total = e.sum(1, keepdim=True)
        tops = torch.where(top, e, 0).sum(1, keepdim=True)
        others = torch.where(top, 0, e).sum(1, keepdim=True) + (tops - e)
        p, q = e / total, others / total
        p, q = torch.where(top, 1 - q, p), torch.where(top, q, 1 - p)
    return torch.where(foreground, q, p), torch.where(foreground, p, q)


def rows_of(values: Tensor, options: Options) -> Tensor:
    """Return ``[B, C, *S]`` as ``[I, C, N]``."""
    flat = values.flatten(2)
    return flat if options.per_image else flat.transpose(0, 1).flatten(1)[None]


def cross_entropy(voxels: Voxels, options: Options) -> Tensor:
    """Return the sums ``[I, C]`` of -t log p and, but for softmax, of -(1 - t) log(1 - p)."""
    x, t = voxels.x, voxels.foreground
    if options.activation == "softmax":
        values = torch.where(t, -x.log_softmax(1), 0)
    else:
        values = -logsigmoid(torch.where(t, x, -x))
        if voxels.counted is not None:
            values = torch.where(voxels.counted, values, 0)
    return rows_of(values, options).sum(-1, dtype=row_dtype(x.device))


def count(input: Tensor, target: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Return the counts, the rows, and the invalid labels.

    Returns:
        counts: int64 ``[2, I, C, 2, K]``: the number of voxels, and the sum of their offsets, of
            background and foreground in every bin.
        rows: ``[2, I, C]``: the number of errors that cannot be counted, and the cross-entropy,
            differentiable (0 if not asked for).
        invalid: ``[2]``: the number of labels out of range, and the first.
    """
    voxels = read(input, target, options.ignore_index)
    return *_count(voxels, options), voxels.invalid


def _count(voxels: Voxels, options: Options) -> tuple[Tensor, Tensor]:
    places = _Places(voxels, options)
    shape = places.index.shape
    size = bins.number(options.octaves, options.bits)
    items, classes = shape[0], shape[1]
    row = torch.arange(items * classes, device=places.index.device).view(items, classes, 1)
    # One more slot, for the voxels that do not count.
    slots = items * classes * 2 * size
    slot = row * 2 * size + places.index
    if places.counted is not None:
        slot = torch.where(places.counted, slot, slots)
    slot, offset = slot.flatten(), places.offset.flatten()
    empty = slot.new_zeros(slots + 1)
    counts = torch.stack(
        [
            empty.scatter_add(0, slot, torch.ones_like(slot))[:slots],
            empty.scatter_add(0, slot, offset)[:slots],
        ]
    ).view(2, items, classes, 2, size)
    flagged = places.flagged.sum(-1).to(row_dtype(slot.device))
    ce = cross_entropy(voxels, options) if options.cross_entropy else torch.zeros_like(flagged)
    return counts, torch.stack([flagged, ce])


class _Places:
    """Where each voxel's error is counted, ``[I, C, N]``.

    Attributes:
        index: foreground * K + bin.
        offset: Of the error in its bin.
        flagged: Whether it cannot be counted.
        counted: Whether the voxel counts, or None for all; ``[I, 1, N]``.
    """

    def __init__(self, voxels: Voxels, options: Options) -> None:
        x, t = voxels.x.detach(), voxels.foreground
        bin, offset, flagged = bins.locate(*errors(x, t, options.activation), options)
        size = bins.number(options.octaves, options.bits)
        self.index = rows_of(bin + size * t, options)
        self.offset = rows_of(offset, options)
        self.flagged = rows_of(flagged, options)
        self.counted = None if voxels.counted is None else rows_of(voxels.counted, options)


def scan(
    counts: Tensor, rows: Tensor, options: Options, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the loss ``[I, C]`` and the table of g ``[I, C, 2, K]``, of the counts.

    Args:
        counts: int64 ``[2, I, C, 2, K]``.
        rows: ``[2, I, C]``; NaN comes out where row 0 is not 0.
        options: Of the bins.
        dtype: Of the table.
    """
    exact = row_dtype(counts.device)
    number, offsets = counts.to(exact)
    errors = number.clone()
    if options.activation == "hinge":
        errors[:, :, 0, 0] = 0  # no errors; but the foreground there is a part of G
    background, foreground = errors.flip(-1).unbind(2)
    g_f, g_b = increments(foreground, background)
    table = torch.stack([g_b, g_f], 2).flip(-1)
    loss = (table * bins.error_sums(number, offsets, options)).sum((-1, -2))
    bad = rows[0] != 0
    loss = loss.masked_fill(bad, torch.nan)
    return loss, table.masked_fill(bad[:, :, None, None], torch.nan).to(dtype)


def weigh(input: Tensor, target: Tensor, table: Tensor, options: Options) -> Tensor:
    """Return the sums of m times its g in the table, ``[I, C]``, differentiable.

    Args:
        input: ``[B, C, *S]``.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        table: g ``[I, C, 2, K]``, or a multiple of it for every image and class.
        options: Of the bins.
    """
    voxels = read(input, target, options.ignore_index)
    places = _Places(voxels, options)
    m, _ = errors(voxels.x, voxels.foreground, options.activation)
    g = table.flatten(2).gather(2, places.index).to(m.dtype)
    return _total(rows_of(m, options), g, places.counted)


def _total(m: Tensor, g: Tensor, counted: Tensor | None) -> Tensor:
    weighed = m * g
    if counted is not None:
        weighed = torch.where(counted, weighed, 0)
    return weighed.sum(-1, dtype=row_dtype(m.device))


def histogram(
    input: Tensor, target: Tensor, options: Options
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss by bins, the rows, the invalid labels, and the counts.

    The weights g are those of the counts; the errors that they weigh are the voxels' own.

    Returns:
        loss: ``[I, C]``, differentiable.
        rows: As from :func:`count`.
        invalid: As from :func:`count`.
        counts: As from :func:`count`.
    """
    counts, rows, invalid = count(input, target, options)
    _, table = scan(counts, rows.detach(), options, row_dtype(input.device))
    return weigh(input, target, table, options), rows, invalid, counts


def sort(input: Tensor, target: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the exact loss, the rows, the invalid labels, and g.

    Returns:
        loss: ``[I, C]``, differentiable.
        rows: ``[3, I, C]``: the number of NaN errors, the cross-entropy (differentiable; 0 if not
            asked for), and the number of foreground voxels.
        invalid: ``[2]``: the number of labels out of range, and the first.
        g: ``[B, C, *S]``, float32 (float64 for float64 input), the derivative of the loss in m.
    """
    voxels = read(input, target, options.ignore_index)
    m, _ = errors(voxels.x, voxels.foreground, options.activation)
    t = rows_of(voxels.foreground, options)
    counted = None if voxels.counted is None else rows_of(voxels.counted, options)
    m = rows_of(m, options)
    g = _sorted_increments(m.detach(), t, counted)
    if options.activation == "hinge":
        g = torch.where(m.detach() > 0, g, 0)
    flagged = m.isnan().sum(-1).to(g.dtype)
    bad = flagged != 0
    g = g.masked_fill(bad[..., None], torch.nan)
    ce = cross_entropy(voxels, options) if options.cross_entropy else torch.zeros_like(flagged)
    rows = torch.stack([flagged, ce, t.sum(-1).to(g.dtype)])
    loss = _total(m.to(g.dtype), g, counted)
    return loss, rows, voxels.invalid, _voxels_of(g.to(voxels.x.dtype), voxels.x)


def _sorted_increments(m: Tensor, t: Tensor, counted: Tensor | None) -> Tensor:
    """Return g ``[I, C, N]`` in the order of the voxels; 0 for those that do not count."""
    key = m if counted is None else torch.where(counted, m, -1)  # last, and in no other's group
    key, order = key.sort(-1, descending=True)
    foreground = t.gather(-1, order)
    begun = (key != key.roll(1, -1)).cumsum(-1)
    group = begun - begun[..., :1]
    # As many groups as voxels at most; the last ones stay empty.
    zeros = torch.zeros_like(key, dtype=row_dtype(m.device))
    counts_f = zeros.scatter_add(-1, group, foreground.to(zeros.dtype))
    live = torch.ones_like(zeros) if counted is None else (key >= 0) | key.isnan()
    counts_b = zeros.scatter_add(-1, group, live.to(zeros.dtype)) - counts_f
    g_f, g_b = increments(counts_f, counts_b)
    g = torch.where(foreground, g_f.gather(-1, group), g_b.gather(-1, group))
    if counted is None:
        return zeros.scatter(-1, order, g)
    return torch.where(counted, zeros.scatter(-1, order, g), 0)


def _voxels_of(values: Tensor, like: Tensor) -> Tensor:
    """Return ``[I, C, N]`` as ``[B, C, *S]``, the inverse of :func:`rows_of`."""
    if values.shape[0] == like.shape[0]:
        return values.reshape(like.shape)
    split = values[0].view(like.shape[1], like.shape[0], *like.shape[2:])
    return split.transpose(0, 1).contiguous()
