"""component_sums as operators of torch, and its kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from segloss_fast._check import is_batched
from segloss_fast._impl import debug_enabled
from segloss_fast.ops._operator import Kernels, Native, define_both
from segloss_fast.ops._voxels.labels import check_labels_on_device
from segloss_fast.ops._voxels.maps import ACTIVATIONS
from segloss_fast.ops.component_sums.record import TERMS

# No Triton: a warp keeps sums of the bins that it met last in slots of shared memory, which it
# finds by their number. That is what CUDA C++ is for.
kernels = Kernels("component_sums", Native())


def judged(rows: Tensor, invalid: Tensor, input: Tensor, target: Tensor) -> Tensor:
    """Raise if labels or values are invalid; return the rows, NaN where nobody may look.

    Args:
        rows: Of component_sums.
        invalid: ``[2]``: how many there are, and the first.
        input: ``[B, C, *S]``.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.

    Raises:
        ValueError: If there are some, on the CPU and in debug mode.
    """
    looks = not is_batched(invalid) and not torch.compiler.is_compiling()
    if not looks or (input.device.type != "cpu" and not debug_enabled()):
        return torch.where(invalid[0] > 0, torch.nan, rows)
    if target.dim() < input.dim():
        check_labels_on_device(invalid, input.shape[1])
    elif invalid[0] > 0:
        bad, first = invalid.tolist()
        raise ValueError(
            "target must hold 0 and 1 per class, for components have no soft edge, "
            f"got {bad:.0f} other values, the first of which is {first:g}"
        )
    return rows


def _forward(
    input: Tensor,
    target: Tensor,
    bins: Tensor,
    voxel_weight: Tensor | None,
    count: int,
    activation: str,
    terms: Sequence[str],
    ignore_index: int | None,
    impl: str,
) -> Tensor:
    launch, options = kernels.step(impl, "forward"), _codes(count, activation, terms, ignore_index)
    rows: Tensor
    rows, invalid = launch(input, target, bins, voxel_weight, *options)
    if input.is_cuda and not debug_enabled():
        return rows  # the kernels have made them NaN where labels are invalid
    return judged(rows, invalid, input, target)


def _backward(
    grad_rows: Tensor,
    input: Tensor,
    target: Tensor,
    bins: Tensor,
    voxel_weight: Tensor | None,
    count: int,
    activation: str,
    terms: Sequence[str],
    ignore_index: int | None,
    impl: str,
) -> Tensor:
    launch, options = kernels.step(impl, "backward"), _codes(count, activation, terms, ignore_index)
    grad: Tensor = launch(grad_rows, input, target, bins, voxel_weight, *options)
    return grad


def _codes(
    count: int, activation: str, terms: Sequence[str], ignore_index: int | None
) -> tuple[int, int, list[int], int | None]:
    """Number the names as the native kernels do."""
    codes = [TERMS.index(name) for name in terms]
    return count, ACTIVATIONS.index(activation), codes, ignore_index


def _fake(
    input: Tensor,
    target: Tensor,
    bins: Tensor,
    voxel_weight: Tensor | None,
    count: int,
    activation: str,
    terms: Sequence[str],
    *rest: Any,  # noqa: ANN401
) -> Tensor:
    shape = (len(terms), input.shape[0], input.shape[1], count + 1)
    return input.new_empty(shape, dtype=torch.float64)


call: Callable[..., Tensor] = define_both(
    kernels,
    ("Tensor input", "Tensor target", "Tensor bins", "Tensor? voxel_weight"),
    "SymInt count, str activation, str[] terms, int? ignore_index, str impl",
    (_forward, _backward),
    _fake,
    "grad_rows",
)
