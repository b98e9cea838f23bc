"""Numbers that options hold, such as class weights, on the device of the tensors they meet."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from segloss_fast._impl import transforms_active


def resident(values: Any, like: Tensor) -> Tensor:  # noqa: ANN401
    """Return the numbers as a tensor with the device and dtype of ``like``.

    A list, an array or a tensor in host memory is copied to another device at the first call with
    these numbers, and found again later: a captured CUDA graph may hold no copy from the host.

    Args:
        values: A tensor, or whatever ``torch.as_tensor`` takes. The result may not be changed.
        like: A tensor of floating point.
    """
    row = torch.as_tensor(values, dtype=like.dtype)
    if (
        row.device == like.device
        or row.device.type != "cpu"
        or row.requires_grad
        or torch.compiler.is_compiling()
        or transforms_active()
    ):
        # Not blocking: the host does not wait for a GPU because the numbers lie in its memory.
        return row.to(like.device, non_blocking=True)
    return _copied(_frozen(row.tolist()), like.dtype, like.device)


def _frozen(values: Any) -> Any:  # noqa: ANN401
    return tuple(map(_frozen, values)) if isinstance(values, list) else values


@lru_cache(maxsize=256)
def _copied(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:  # noqa: ANN401
    with torch.inference_mode(False):  # or the next call that differentiates could not use it
        return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)
