"""component_sums as callers see it: the checks and the choice of implementation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segloss_fast import _check
from segloss_fast._impl import resolve, traced, transforms_active
from segloss_fast.ops._operator import preference
from segloss_fast.ops._voxels.checks import check_target, check_voxel_weight
from segloss_fast.ops._voxels.maps import ACTIVATIONS
from segloss_fast.ops.component_sums import op, reference
from segloss_fast.ops.component_sums.record import TERMS, ComponentSums


def component_sums(
    input: Tensor,
    target: Tensor,
    bins: Tensor,
    *,
    count: int,
    activation: str = "softmax",
    terms: Sequence[str] = ("tp", "pred", "target"),
    voxel_weight: Tensor | None = None,
    ignore_index: int | None = None,
    impl: str = "auto",
) -> ComponentSums:
    """Activate the input and sum it against the target over the voxels of each bin.

    >>> labels = torch.tensor([[1, 1, 0, 0, 1]])
    >>> found = segloss_fast.connected_components(labels[:, None])
    >>> x = torch.zeros(1, 2, 5)
    >>> sums = segloss_fast.component_sums(x, labels, found.labels, count=2, terms=["pred"])
    >>> sums.pred[0, 1].tolist()  # of the background, and of the two components
    [1.0, 1.0, 0.5]

    The formulas stand in the docstring of :mod:`segloss_fast.ops.component_sums`. Differentiable in
    ``input`` and ``voxel_weight``.

    Args:
        input: ``[B, C, *S]``, S of one to three dimensions, any strides; float16, bfloat16, float32
            or float64. Logits, or probabilities in [0, 1].
        target: Class indices ``[B, *S]`` or ``[B, 1, *S]`` in [0, C) (of one class 0 and 1); or 0
            and 1 per class, ``[B, C, *S]``. Bool, uint8, int8 to int64 or floating point.
        bins: int32, in [0, count]: ``[B, 1, *S]``, the same for all classes, or ``[B, C, *S]``.
        count: K, the number of bins beside bin 0, at least 0. With a larger one in ``bins``, or one
            below 0, all rows of that item and class are NaN.
        activation: ``"softmax"`` over the classes, ``"sigmoid"``, or ``"probabilities"`` (none).
        terms: Names of the rows to compute.
        voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``, any sign; truth values and integers are
            copied as floating-point numbers.
        ignore_index: Voxels with this label do not count, NaN input or not; of class indices only.
        impl: ``"auto"``, ``"reference"`` or ``"native"``.

    Returns:
        The rows ``[terms, B, C, K + 1]``, float64 (float32 on devices without it).

    Raises:
        TypeError: If an argument's type or dtype is not one of those above.
        ValueError: If a shape, device or option is not, or if a label is neither a class nor
            ``ignore_index``, or a value per class not 0 or 1 (on a GPU, where looking would need a
            synchronisation, rows become NaN; :class:`segloss_fast.debug` raises there too).
        RuntimeError: If ``impl`` names kernels that are not available for this call.
    """
    _check.check_input(input)
    _check.check_ignore_index(ignore_index)
    _check.check_option("activation", activation, ACTIVATIONS)
    if input.shape[1] == 1 and activation == "softmax":
        raise _check.softmax_of_one_class(input, "'sigmoid'")
    names = _terms(terms)
    target = _target(input, target, ignore_index)
    _check_bins(input, bins, count)
    voxel_weight = _check.as_weight(voxel_weight)
    if voxel_weight is not None:
        check_voxel_weight(input, voxel_weight)
    others = [target] if voxel_weight is None else [target, voxel_weight]
    only_reference = (
        transforms_active()
        or traced()
        or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in others))
    )
    chosen = resolve(
        impl,
        () if only_reference else preference(input.device),
        lambda name: (
            "the gradient of target and of voxel_weight, the transforms of torch.func and forward "
            "mode are served by the reference only"
            if only_reference
            else op.kernels.why_not(name, input.device)
        ),
        input,
    )
    if chosen != "reference":
        rows = op.call(
            *(input, target, bins, voxel_weight, count),
            *(activation, list(names), ignore_index, chosen),
        )
        return ComponentSums(names, rows)
    rows, invalid = reference.forward(
        input, target, bins, count, activation, names, voxel_weight, ignore_index
    )
    return ComponentSums(names, op.judged(rows, invalid, input, target))


def _target(input: Tensor, target: Tensor, ignore_index: int | None) -> Tensor:
    """Return class indices as ``[B, *S]``, values as ``[B, C, *S]``, checked."""
    target = check_target(input, target, ignore_index)
    if input.shape[1] == 1 and target.dim() == input.dim():
        return target[:, 0]  # floating-point labels of one class: 0 and 1
    return target


def _terms(terms: object) -> tuple[str, ...]:
    if isinstance(terms, str) or not isinstance(terms, Sequence):
        raise TypeError(f"terms must be a sequence of names, got {type(terms).__name__}")
    if not terms:
        raise ValueError(f"terms must name at least one of {', '.join(TERMS)}")
    for place, name in enumerate(terms):
        _check.check_option(f"terms[{place}]", name, TERMS)
    if len(set(terms)) < len(terms):
        raise ValueError(f"terms must name each row once, got {list(terms)}")
    return tuple(terms)


def _check_bins(input: Tensor, bins: object, count: object) -> None:
    _check.check_dtype("bins", bins, (torch.int32,))
    assert isinstance(bins, Tensor)
    _check.check_device("bins", bins, input)
    shared = torch.Size((input.shape[0], 1, *input.shape[2:]))
    if bins.shape not in (shared, input.shape):
        raise ValueError(
            f"bins must have shape {list(shared)} or {list(input.shape)}, got {list(bins.shape)}"
        )
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"count must be an int, got {type(count).__name__}")
    if count < 0:
        raise ValueError(f"count must be at least 0, got {count}")
