"""The definition of confusion_sums, in plain differentiable PyTorch on any device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops._voxels.labels import one_hot, trusted_one_hot
from segloss_fast.ops._voxels.maps import BLOCK, activate, in_blocks, row_dtype, sum_voxels
from segloss_fast.ops._voxels.pieces import as_defined, is_plain, sum_in_pieces


def forward(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    activation: str,
    ignore_index: int | None,
) -> tuple[Tensor, Tensor]:
    """Return the sums ``[B, C, C + 1]`` and ``[2]``: how many labels are out of range, the first.

    Args:
        input: ``[B, C, *S]``.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``, or None.
        activation: ``"softmax"``, ``"sigmoid"`` or ``"probabilities"``.
        ignore_index: The label of ignored voxels, or None.
    """
    definition = functools.partial(_sums, activation, ignore_index)
    return sum_in_pieces(definition, input, target, voxel_weight, axis=0)


def _sums(
    activation: str,
    ignore_index: int | None,
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    x = input.to(dtype)
    w = None if voxel_weight is None else voxel_weight.to(dtype)
    invalid = torch.zeros(2, dtype=row_dtype(x.device), device=x.device)
    product = _Product.apply if is_plain(input, target, voxel_weight) else _by_class
    if target.dim() == x.dim():
        return _define(activation, x, target.to(dtype), w, product), invalid
    if product is not _by_class:
        trusted = trusted_one_hot(target, x.shape[1], ignore_index, dtype)
        if trusted is not None:
            t, counts = trusted
            if counts is not None:  # and what comes back to x there is 0, whatever it was
                t, x = counts * t, x.masked_fill(counts == 0, 0)
            sums = _define(activation, x, t, w, product)
            if bool(sums.isfinite().all()):  # so was all that went into them
                return sums, invalid
    t, counted, invalid = one_hot(target, x.shape[1], ignore_index, dtype)
    if counted is not None:
        x = x.masked_fill(~counted, 0)  # so that a NaN there does not count
        w = None if w is None else w.masked_fill(~counted, 0)
    return _define(activation, x, t, w, product), invalid


def _define(
    activation: str,
    x: Tensor,
    t: Tensor,
    w: Tensor | None,
    product: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Return the sums of one-hot or dense values."""
    x, t = in_blocks(x, 2), in_blocks(t, 2)
    t = t if w is None else in_blocks(w, 2) * t
    confusion = product(t, activate(x, activation))
    return torch.cat([confusion, sum_voxels(t)[..., None]], 2)


def _by_class(t: Tensor, p: Tensor) -> Tensor:
    """Return the sums of the products ``[B, C, C]``, of which no more than C maps are made."""
    return torch.stack([sum_voxels(t[:, c : c + 1] * p) for c in range(t.shape[1])], 1)


class _Product(torch.autograd.Function):
    """The same as a product of matrices for each block of voxels, and one for its gradient.

    The blocks are added up in float64: in a single product of float32 the errors are much larger,
    and may depend on the number of threads.
    """

    @staticmethod
    def forward(ctx: Any, t: Tensor, p: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(t, p)
        with torch.autocast("cpu", enabled=False):  # it would round to bfloat16
            found = [_multiply(*maps) for maps in zip(t.flatten(2), p.flatten(2), strict=True)]
        shape = (0, t.shape[1], p.shape[1])
        return torch.stack(found) if found else t.new_zeros(shape, dtype=row_dtype(t.device))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (t, p), wanted = ctx.saved_tensors, ctx.needs_input_grad
        defined = as_defined(lambda *maps: (_by_class(*maps), None), (t, p), wanted, grad)
        if defined is not None:
            return tuple(defined)
        grad = grad.to(t.dtype)
        with torch.autocast("cpu", enabled=False):
            return (
                (grad @ p.flatten(2)).view_as(t) if wanted[0] else None,
                (grad.mT @ t.flatten(2)).view_as(p) if wanted[1] else None,
            )


def _multiply(t: Tensor, p: Tensor) -> Tensor:
    """Return ``[C, C]`` of ``[C, N]``, in the dtype of sums."""
    wide = row_dtype(t.device)
    whole = t.shape[1] // BLOCK * BLOCK
    blocks, others = (
        torch.bmm(former.transpose(0, 1), latter.permute(1, 2, 0)).sum(0, dtype=wide)
        for former, latter in (
            (t[:, :whole].unflatten(1, (-1, BLOCK)), p[:, :whole].unflatten(1, (-1, BLOCK))),
            (t[:, None, whole:], p[:, None, whole:]),
        )
    )
    return blocks + others
