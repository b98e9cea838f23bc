"""A loss that is new: one formula in PyTorch, which has a plan, or works as well without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss_fast._native import _C
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import Region, RegionKeywords
from segloss_fast.losses._reduce import Part, evaluate, ratio, reduce_region
from segloss_fast.ops.region_sums import RegionSums
from tests.conformance import problem
from tests.helpers import forget_plans, gradient, has_plan, relative_l2

pytestmark = pytest.mark.skipif(_C is None, reason="the native module is not built")


@pytest.fixture(autouse=True)
def no_plans_before(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_plans(monkeypatch)


@loss_function
def power_dice_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    exponent: float = 2.0,
    special: bool = False,
    **keywords: Unpack[RegionKeywords],
) -> Tensor:
    """What somebody new to this package writes: a formula of sums, in PyTorch alone."""
    checked = Region(**keywords)

    def value(sums: RegionSums) -> Tensor:
        index = ratio(2 * sums.tp, sums.pred + sums.target, checked.smooth_nr, checked.smooth_dr)
        loss = (1 - index).pow(exponent)
        return reduce_region(loss.erf() if special else loss, sums, checked, counts=False)

    part = Part(("tp", "pred", "target"), value)
    return evaluate([part], input, target, voxel_weight, checked)


@pytest.mark.parametrize("special", [False, True], ids=["known operations", "a special function"])
def test_a_new_loss_needs_no_more_than_its_formula(special: bool) -> None:
    """It has a plan, and where it cannot have one, it works as well."""
    case = problem("labels")
    p = case.input.softmax(1)
    t = torch.nn.functional.one_hot(case.target, 3).movedim(-1, 1).double()
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)

    def definition(x: Tensor) -> Tensor:
        p = x.softmax(1)
        sums = [(2 * p * t).sum((2, 3, 4)), (p + t).sum((2, 3, 4))]
        loss = (1 - (sums[0] + 1e-5) / (sums[1] + 1e-5)) ** 1.5
        loss = loss.erf() if special else loss
        return (loss * weight).sum() / weight.expand_as(loss).sum()

    def loss(x: Tensor) -> Tensor:
        result: Tensor = power_dice_loss(
            x, case.target, exponent=1.5, special=special, class_weight=weight
        )
        return result

    assert p.shape == t.shape
    assert has_plan(loss(case.input.clone().requires_grad_())) == (not special)
    for found, true in zip(
        gradient(loss, case.input), gradient(definition, case.input), strict=True
    ):
        assert relative_l2(found, true) < 1e-12
