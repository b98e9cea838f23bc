"""A peer that computes in float32 whatever it gets, in float64 for once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from tests.compat.grid import Call


def in_float64(peer: Callable[..., Any]) -> Callable[[Call], Tensor]:
    """Return what the peer returns where its conversions to float32 are to float64 instead."""

    def judge(call: Call) -> Tensor:
        loss: nn.Module = peer(**call.options).double()
        with mock.patch.object(Tensor, "float", Tensor.double):
            value = loss(call.input, *call.others)
        assert value.dtype == torch.float64
        found: Tensor = value
        return found

    return judge
