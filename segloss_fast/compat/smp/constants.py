"""The names of the modes of segmentation-models-pytorch's losses."""

from __future__ import annotations

BINARY_MODE = "binary"
"""One class: input ``[B, 1, *S]``, target ``[B, *S]`` or ``[B, 1, *S]`` of 0 and 1."""

MULTICLASS_MODE = "multiclass"
"""Classes that exclude each other: input ``[B, C, *S]``, target ``[B, *S]`` of class indices."""

MULTILABEL_MODE = "multilabel"
"""Classes that may overlap: input and target ``[B, C, *S]``, the target of 0 and 1."""
