"""The CPU kernels called without torch's raw operators, for which Python's tensors are read in C++.

A raw operator takes as long to read the tensors of a small problem as the kernels to work on them.
It serves what is left: other devices, and tensors that are no plain ones.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
from torch import Tensor

from segloss_fast._native import _C
from segloss_fast.ops._voxels import plain
from segloss_fast.ops._voxels.labels import marked
from segloss_fast.ops._voxels.maps import ACTIVATIONS
from segloss_fast.ops.region_sums.options import TERMS, Options


def read(impl: str, *tensors: list[Tensor]) -> Any:  # noqa: ANN401
    """Return where the numbers of inputs, targets and voxel weights lie, as read_plain."""
    return plain.read_plain(impl, *itertools.chain(*tensors))


def forward(
    read: Any,  # noqa: ANN401
    inputs: list[Tensor],
    targets: list[Tensor],
    options: Options,
) -> Tensor:
    """Return the rows ``[K, items, C]`` of tensors that have been read; raise as region_sums."""
    items = sum(x.shape[0] for x in inputs)
    size = len(options.terms), items, inputs[0].shape[1]
    rows = torch.empty(size, dtype=torch.float64, device="cpu")
    invalid = _sums(options).forward(read, len(inputs), rows)
    if not invalid[0]:
        return rows
    labels = torch.tensor(invalid, dtype=torch.float64, device="cpu")
    return marked(rows, labels, inputs[0], targets[0])


def backward(
    grad_rows: Tensor,
    read: Any,  # noqa: ANN401
    inputs: list[Tensor],
    options: Options,
) -> list[Tensor]:
    """Return the gradient of each input, given that of the rows; of tensors that have been read."""
    found = [torch.empty_like(x) for x in inputs]
    _sums(options).backward(grad_rows.contiguous(), read, tuple(found))
    return found


@functools.lru_cache(maxsize=256)
def codes(options: Options) -> tuple[Any, ...]:
    """Return the options as the native kernels number them."""
    return (
        [TERMS.index(name) for name in options.terms],
        ACTIVATIONS.index(options.activation),
        ACTIVATIONS.index(options.ce_activation),
        options.gamma,
        options.ignore_index,
    )


@functools.lru_cache(maxsize=256)
def _sums(options: Options) -> Any:  # noqa: ANN401
    """Return the sums in C++."""
    assert _C is not None
    return _C.Sums(*codes(options))
