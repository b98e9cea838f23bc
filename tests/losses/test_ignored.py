"""Ignored voxels have no part in any loss, not even where what comes back to it is no number."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.helpers import IMPLS
from tests.records import LOSSES, LOVASZ_LOSSES
from tests.suite.tiers import begins_in

MODULES = [record.module for record in LOSSES] + [loss for loss, _ in LOVASZ_LOSSES.values()]
IGNORED = 255


@begins_in("test")
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_nan_that_comes_back_reaches_no_ignored_voxel(
    module: Callable[..., torch.nn.Module], impl: str
) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 3, 9, 17, generator=generator).requires_grad_()
    labels = torch.randint(3, (2, 9, 17), generator=generator)
    ignored = torch.rand(labels.shape, generator=generator) < 0.3
    labels[ignored] = IGNORED
    loss = module(ignore_index=IGNORED, impl=impl)(x, labels)
    (grad,) = torch.autograd.grad(loss, x, torch.full_like(loss, torch.nan))
    by_voxel = grad.movedim(1, -1)
    assert not by_voxel[ignored].any()
    assert by_voxel[~ignored].isnan().any()
