"""region_masks as an operator of torch: schema and shape rule; it has no derivative."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast.ops.region_masks import kernels

torch.library.define(
    "segloss_fast::region_masks",
    "(Tensor values, Tensor? labels, SymInt classes, str mode, int? ignore_index, int first,"
    " str impl) -> Tensor",
)
for _device in ("CPU", "CUDA"):
    torch.library.impl("segloss_fast::region_masks", _device, kernels.forward)


@torch.library.register_fake("segloss_fast::region_masks")
def _fake(
    values: Tensor,
    labels: Tensor | None,
    classes: int,
    mode: str,
    ignore_index: int | None,
    first: int,
    impl: str,
) -> Tensor:
    size = values.shape[1:] if mode == "labels" else values.shape[2:]
    return values.new_empty((values.shape[0], classes, *size), dtype=torch.bool)


def call(
    values: Tensor,
    labels: Tensor | None,
    classes: int,
    mode: str,
    ignore_index: int | None,
    first: int,
    impl: str,
) -> Tensor:
    """Return the masks by the kernels that ``impl`` names."""
    operator = torch.ops.segloss_fast.region_masks
    result: Tensor = operator(values, labels, classes, mode, ignore_index, first, impl)
    return result
