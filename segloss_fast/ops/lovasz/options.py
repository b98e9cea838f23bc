"""The names that lovasz accepts, and the record of one call's options."""

from __future__ import annotations

from dataclasses import dataclass

# The order is the numbering of the native kernels (csrc/lovasz/kernels.h).
ACTIVATIONS = ("softmax", "sigmoid", "hinge")
METHODS = ("sort", "histogram")


@dataclass(frozen=True)
class Options:
    """What one call asks for, already checked.

    Attributes:
        activation: What turns the input into errors.
        method: ``"sort"`` or ``"histogram"``.
        octaves: E, of the bins (:mod:`segloss_fast.ops.lovasz.bins`).
        bits: b, of the bins.
        per_image: Whether each item of the batch has a loss of its own; else they are pooled.
        ignore_index: The label of voxels that do not count, or None.
        cross_entropy: Whether the cross-entropy is summed too.
    """

    activation: str
    method: str
    octaves: int
    bits: int
    per_image: bool
    ignore_index: int | None
    cross_entropy: bool
