"""lovasz as callers see it: the checks and the choice of method and implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segloss_fast import _check
from segloss_fast._impl import resolve, transforms_active
from segloss_fast._sync import Ranks, check_pooled, check_sync, ranks_of
from segloss_fast.ops._operator import preference
from segloss_fast.ops._voxels.checks import check_target
from segloss_fast.ops._voxels.labels import counted_voxels, marked
from segloss_fast.ops._voxels.maps import row_dtype
from segloss_fast.ops.lovasz import bins as layouts
from segloss_fast.ops.lovasz import images, op, reference
from segloss_fast.ops.lovasz.options import ACTIVATIONS, METHODS, Options
from segloss_fast.ops.lovasz.record import LovaszSums

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

SORT_BELOW = 2**18  # voxels per class, where a sort costs about as much as the bins


def lovasz(
    input: Tensor,
    target: Tensor,
    *,
    activation: str = "softmax",
    method: str = "auto",
    bins: int | None = None,
    per_image: bool = False,
    ignore_index: int | None = None,
    cross_entropy: bool = False,
    sync: bool | str | ProcessGroup = False,
    shards: bool = False,
    impl: str = "auto",
) -> LovaszSums:
    """Return the Lovász extension of the Jaccard loss, for every image and class.

    >>> sums = segloss_fast.lovasz(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]]))
    >>> sums.loss
    tensor([[0.5000, 0.5000]], dtype=torch.float64)

    The formulas stand in the docstring of :mod:`segloss_fast.ops.lovasz`.

    Differentiable in ``input``. Double backward is an error except in the reference.

    Args:
        input: Logits ``[B, C, *S]``, S of one to three dimensions, any strides; float16, bfloat16,
            float32 or float64.
        target: Class indices ``[B, *S]`` or ``[B, 1, *S]`` in [0, C), bool, uint8, int8 to int64 or
            floating point; or values ``[B, C, *S]`` of any of these dtypes, foreground above one
            half. For C = 1 truth values and integers are labels, 0 and 1; a floating-point target
            of either shape holds values in [0, 1].
        activation: What the errors are of: ``"softmax"`` over the classes, ``"sigmoid"``, or
            ``"hinge"``, where each class is a problem of its own.
        method: ``"sort"`` (exact), ``"histogram"`` (by bins, in a fraction of the time and without
            memory of the input's size), or ``"auto"``: exact below 2^18 voxels per class, where the
            kernels have a sort and ranks need not be synchronised.
        bins: Number of bins of the histogram, 9 to 16 times a power of two; None for the default.
            Hinge errors of 2^16 and more are beyond the bins, and make the loss NaN.
        per_image: Whether each item of the batch has a loss of its own; else they are pooled.
        ignore_index: Voxels with this class index, or for C = 1 with this value, do not count, not
            even if the input is NaN there.
        cross_entropy: Whether to sum the cross-entropy too, in the same pass.
        sync: True, ``"auto"`` (where there is a process group), a process group or its name: the
            counts are added over its ranks, and the gradient is scaled so that the mean over the
            ranks is that of the whole. Every rank returns the same.
        shards: Whether the ranks hold parts of the same items; else they hold other items, which
            ``per_image=True`` would keep apart.
        impl: ``"auto"``, ``"reference"``, ``"native"`` or ``"triton"``.

    Returns:
        The record, of tensors ``[I, C]``, I = B with ``per_image``, else 1. The loss is float64
        (float32 on devices without it).

    Raises:
        TypeError: If an argument's type or dtype is not one of those above.
        ValueError: If a shape, device or option is not, if a sort is asked for with ``sync``, if
            the ranks disagree, or if class indices lie outside [0, C), or values of one class
            outside [0, 1], and are not ``ignore_index`` (on a GPU, where looking would need a
            synchronisation, the loss becomes NaN; under :class:`segloss_fast.debug` it raises there
            too).
        RuntimeError: If ``impl`` names kernels that are not available for this call, or ``sync``
            needs a process group that is not there.
    """
    _check_input(input, activation)
    _check.check_flag("per_image", per_image)
    check_method(method, sync, shards, per_image)
    _check.check_flag("cross_entropy", cross_entropy)
    octaves, bits = layouts.layout(bins)
    target = _check_target(input, target, ignore_index)
    ranks = ranks_of(sync, shards, input)
    impl, method = _choose(impl, method, input, per_image, synchronised=ranks is not None)
    options = Options(activation, method, octaves, bits, per_image, ignore_index, cross_entropy)
    if method == "sort":
        return _sort(input, target, options, impl)
    return _histogram(input, target, options, impl, ranks)


def lovasz_counts(
    input: Tensor,
    target: Tensor,
    *,
    activation: str = "softmax",
    bins: int | None = None,
    per_image: bool = False,
    ignore_index: int | None = None,
    impl: str = "auto",
) -> Tensor:
    """Return how many voxels have an error in each bin.

    >>> counts = segloss_fast.lovasz_counts(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]]))
    >>> counts.sum(-1).tolist()
    [[[1, 3], [3, 1]]]

    The counts of chunks and of ranks add up. Without derivative. The bins are those of
    :mod:`segloss_fast.ops.lovasz.bins`, from small errors to large ones.

    Args:
        input: As for :func:`lovasz`, and so are the others.
        target: See input.
        activation: See input.
        bins: See input.
        per_image: See input.
        ignore_index: See input.
        impl: See input.

    Returns:
        int64 ``[I, C, 2, K]``: background and foreground in each of K bins.

    Raises:
        TypeError: As :func:`lovasz`.
        ValueError: As :func:`lovasz`; on a GPU, labels out of range are background of all classes.
        RuntimeError: As :func:`lovasz`.
    """
    _check_input(input, activation)
    _check.check_flag("per_image", per_image)
    octaves, bits = layouts.layout(bins)
    target = _check_target(input, target, ignore_index)
    impl, _ = _choose(impl, "histogram", input, per_image, synchronised=False)
    options = Options(activation, "histogram", octaves, bits, per_image, ignore_index, False)
    with torch.no_grad():
        counts, _ = _count(input, target, options, impl)
    return counts[0]


def check_method(method: object, sync: object, shards: bool, per_image: bool) -> None:
    """Raise unless the method is one, and can be synchronised where that is asked for."""
    _check.check_option("method", method, ("auto", *METHODS))
    check_sync(sync, shards)
    check_pooled(sync, shards, not per_image, "per_image=False")
    if method == "sort" and sync is not False:
        raise ValueError(
            "method must be 'histogram' or 'auto' with sync, because only counts add up over ranks,"
            " got 'sort'"
        )


def _check_input(input: Tensor, activation: str) -> None:
    _check.check_input(input)
    _check.check_option("activation", activation, ACTIVATIONS)
    if input.shape[1] == 1 and activation == "softmax":
        raise _check.softmax_of_one_class(input, "'sigmoid' or 'hinge'")


def _check_target(input: Tensor, target: Tensor, ignore_index: int | None) -> Tensor:
    """Return the checked target, which is constant: values count as above one half or not."""
    _check.check_ignore_index(ignore_index)
    return check_target(input, target, ignore_index, instead="").detach()


def _choose(
    impl: str, method: str, input: Tensor, per_image: bool, *, synchronised: bool
) -> tuple[str, str]:
    """Return the implementation that serves the call, and the method."""
    only_reference = (
        "the transforms of torch.func and forward mode are served by the reference only"
    )

    def why_not(name: str, by: str) -> str | None:
        return (
            only_reference
            if transforms_active()
            else op.kernels.why_not(name, input.device, input.dtype, by)
        )

    by = "sort" if method == "sort" else "histogram"
    impl = resolve(impl, preference(input.device), lambda name: why_not(name, by), input)
    if method != "auto":
        return impl, method
    voxels = input[0, 0].numel() if input.shape[0] else 0
    small = voxels * (1 if per_image else input.shape[0]) < SORT_BELOW
    sorts = impl == "reference" or why_not(impl, "sort") is None
    return impl, "sort" if small and sorts and not synchronised else "histogram"


def _sort(input: Tensor, target: Tensor, options: Options, impl: str) -> LovaszSums:
    if impl == "reference":
        loss, rows, invalid, _ = reference.sort(input, target, options)
        loss = marked(loss, invalid, input, target)
    else:
        loss, rows = op.sort(input, target, options, impl)
    ce = rows[1] if options.cross_entropy else None
    foreground = rows[2].detach()
    return LovaszSums(loss, foreground > 0, ce, foreground, _weight(input, target, options))


def _histogram(
    input: Tensor,
    target: Tensor,
    options: Options,
    impl: str,
    ranks: Ranks | None,
) -> LovaszSums:
    if ranks is None and images.are_many(input, options):
        loss, ce, number = images.histogram(input, target, options, impl)
        return _of_histogram(loss, ce, number.to(loss.dtype), options)
    counts, rows = _count(input, target, options, impl)
    # Implementations differ in the collectives that they make.
    what = (
        f"lovasz {options.activation} {options.octaves} {options.bits} {options.per_image} "
        f"{options.cross_entropy} {impl}"
    )
    if ranks is not None:
        rows = ranks.add(rows, what, first_of_many=True)
        counts = ranks.add_more(counts)
    if impl == "reference":
        _, table = reference.scan(counts, rows.detach(), options, row_dtype(input.device))
        loss = reference.weigh(input, target, table, options)
        loss, ce = (loss if ranks is None else ranks.add(loss, what)), rows[1]
    else:
        loss, ce = op.histogram(input, target, counts, rows, options, impl)
        if ranks is not None:
            loss, ce = ranks.gradient(torch.stack([loss, ce]), what).unbind()
    return _of_histogram(loss, ce, counts[0].sum(-1).to(rows.dtype), options)


def _of_histogram(loss: Tensor, ce: Tensor, number: Tensor, options: Options) -> LovaszSums:
    """Return the record; ``number`` is that of background and foreground, ``[I, C, 2]``."""
    return LovaszSums(
        loss,
        number[:, :, 1] > 0,
        ce if options.cross_entropy else None,
        number[:, :, 1],
        number.sum(-1),
    )


def _count(input: Tensor, target: Tensor, options: Options, impl: str) -> tuple[Tensor, Tensor]:
    """Return counts and rows, whose row 0 also marks labels out of range."""
    if impl != "reference":
        return op.count(input, target, options, impl)
    counts, rows, invalid = reference.count(input, target, options)
    return counts, torch.stack([marked(rows[0], invalid, input, target), rows[1]])


def _weight(input: Tensor, target: Tensor, options: Options) -> Tensor:
    """Return the number of voxels that count, ``[I, C]``."""
    per_image = options.per_image
    dtype = row_dtype(input.device)
    shape = (input.shape[0] if per_image else 1, input.shape[1])
    counted = counted_voxels(input, target, options.ignore_index)
    if counted is None:
        voxels = input[0, 0].numel() if input.shape[0] else 0
        voxels = voxels if per_image else voxels * input.shape[0]
        return torch.full(shape, voxels, dtype=dtype, device=input.device)
    number = counted.flatten(1).sum(1) if per_image else counted.sum()
    return number.to(dtype).view(-1, 1).expand(shape)
