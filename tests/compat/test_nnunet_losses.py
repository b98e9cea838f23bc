"""nnU-Net's losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from segloss_fast.compat import nnunet
from tests.compat import nnunet_calls as calls
from tests.compat.grid import Drop, by_block, check_block
from tests.compat.nnunet_calls import peer

pytestmark = pytest.mark.peers


def compound(of: Callable[[str], Callable[..., Any]], name: str) -> Callable[..., Any]:
    """Return a constructor that takes the name of dice_class."""

    def construct(**options: Any) -> Any:  # noqa: ANN401
        if "dice_class" in options:
            options["dice_class"] = of(options["dice_class"])
        return of(name)(**options)

    return construct


def supervised(of: Callable[[str], Callable[..., Any]]) -> Callable[..., nn.Module]:
    """Return a constructor of DeepSupervisionWrapper around a loss by its name."""

    def construct(name: str, options: dict[str, Any], weight_factors: list[float]) -> nn.Module:
        wrapped: nn.Module = of("DeepSupervisionWrapper")(
            compound(of, name)(**options), weight_factors
        )
        return wrapped

    return construct


def ours(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(nnunet, name)
    return found


DROPS = {
    "SoftDiceLoss": calls.dice(clip=True),
    "TopKLoss": calls.topk,
    **calls.LOSSES,
}
CASES = {
    name: Drop(compound(ours, name), compound(peer, name), call, 120)
    for name, call in DROPS.items()
} | {"DeepSupervisionWrapper": Drop(supervised(ours), supervised(peer), calls.levels, 120)}


@by_block
@pytest.mark.parametrize("name", CASES)
def test_equals_nnunet(name: str, block: int) -> None:
    check_block(CASES[name], block)
