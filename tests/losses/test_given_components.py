"""Maps of components that are given: what has none is absent, and what cannot be is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import segloss_fast as sf
from tests.helpers import IMPLS

LOSSES: tuple[Any, ...] = (sf.BlobLoss, sf.ComponentDiceCELoss, sf.ComponentTverskyLoss)
CELLS: tuple[Any, ...] = (sf.ComponentDiceCELoss, sf.BidirectionalComponentLoss)
by_impl = pytest.mark.parametrize("impl", [impl for impl in IMPLS if impl != "triton"])


def problem(classes: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((2, classes, 6, 7), generator=generator, dtype=torch.float64)
    target = torch.zeros(2, 6, 7, dtype=torch.int64)
    target[:, 1:3, 1:4] = target[:, 4:, 5] = 1
    return x, target


@by_impl
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_an_item_without_components_is_left_out(loss: Any, impl: str) -> None:  # noqa: ANN401
    """As if it were not there, though its target has voxels of the class."""
    x, target = problem()
    labels = sf.component_labels(target, classes=2)
    labels[1] = 0
    alone = loss(lambda_global=0, absent="skip", impl=impl)
    found = alone(x, target, components=labels)
    torch.testing.assert_close(found, alone(x[:1], target[:1]), rtol=1e-12, atol=0)


@by_impl
def test_voxels_without_weight_are_of_a_component_still(impl: str) -> None:
    x, target = problem()
    weight = (target == 0).double()[:, None]
    loss = sf.ComponentDiceCELoss(lambda_global=0, absent="skip", reduction="none", impl=impl)
    assert (loss(x, target, weight)[:, -1] > 0.1).all()


@pytest.mark.parametrize("loss", CELLS, ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("name", ["components", "cells"])
def test_cells_are_of_one_class(loss: Any, name: str) -> None:  # noqa: ANN401
    x, target = problem(3)
    one = sf.component_labels(target, classes=2)[:, -1:]
    with pytest.raises(
        ValueError, match=rf"{name} must hold all classes, got shape \[2, 1, 6, 7\]"
    ):
        loss()(x, target, **{name: one})


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_numbers_below_zero_are_no_components(loss: Any) -> None:  # noqa: ANN401
    x, target = problem()
    labels = torch.full((2, 1, 6, 7), -1, dtype=torch.int32)
    if loss is sf.ComponentDiceCELoss:  # which asks for the nearest
        with pytest.raises(ValueError, match="labels must lie between 0"):
            loss()(x, target, components=labels)
    else:
        assert loss()(x, target, components=labels).isnan()
