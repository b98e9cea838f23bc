"""connected_components as an operator of torch, without a derivative, and its kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops._operator import Kernels, Native, define
from segloss_fast.ops.connected_components import reference

# No Triton: unions follow chains of parents of any length with atomic minima, which is what CUDA
# C++ is for.
kernels = Kernels("connected_components", Native())


def _forward(
    labels: Tensor,
    differing: int,
    by_value: bool,
    ignore_index: int | None,
    order: Sequence[int],
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    if impl == "reference":  # as an operator, too, for compilers cannot see when it has finished
        return reference.forward(labels, differing, by_value, ignore_index)
    if by_value and labels.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "by value, connected_components reads the largest count from the device, which the "
            "capture of a CUDA graph forbids; label before capturing"
        )
    launch = kernels.step(impl, "forward")
    components, count, value, wide = launch(labels, differing, by_value, ignore_index, list(order))
    if by_value:
        reference.refuse_wide(bool(wide))
    return components, count, value


def _fake(
    labels: Tensor,
    differing: int,
    by_value: bool,
    *rest: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor, Tensor]:
    most = torch.library.get_ctx().new_dynamic_size() if by_value else 0
    return (
        labels.new_empty(labels.shape, dtype=torch.int32),
        labels.new_empty(labels.shape[:2], dtype=torch.int32),
        labels.new_empty((labels.shape[0], most), dtype=torch.int32),
    )


call = define(
    "connected_components",
    "(Tensor labels, int differing, bool by_value, int? ignore_index, int[] order, str impl)"
    " -> (Tensor, Tensor, Tensor)",
    _forward,
    _fake,
)


def _batched(
    info: Any,  # noqa: ANN401
    in_dims: tuple[int | None, ...],
    labels: Tensor,
    *options: Any,  # noqa: ANN401
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int, int]]:
    """Label a batch of torch.func.vmap as more items."""
    assert in_dims[0] is not None
    labels = labels.movedim(in_dims[0], 0)
    found = call(labels.flatten(0, 1), *options)
    batches = labels.shape[:2]
    components, count, value = (each.unflatten(0, batches) for each in found)
    return (components, count, value), (0, 0, 0)


torch.library.register_vmap("segloss_fast::connected_components", _batched)
