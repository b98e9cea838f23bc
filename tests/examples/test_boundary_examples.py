"""The examples of the boundary losses: the surface error, the demo's loss, the data loader."""

from __future__ import annotations

import pytest
import torch
from monai.metrics import compute_hausdorff_distance
from torch import Tensor

from examples import boundary_dataloader
from examples.brain_loss import LOSSES, make_loss
from examples.brain_surface import error_per_class, surface, surface_error


def ball(radius: float, shift: float = 0.0) -> Tensor:
    place = torch.arange(20.0) - 9.5
    x, y, z = torch.meshgrid(place - shift, place, place, indexing="ij")
    return x**2 + y**2 + z**2 < radius**2


@pytest.mark.parametrize("spacing", [1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_surface_error_equals_its_definition_and_monai(spacing: float, seed: int) -> None:
    torch.manual_seed(seed)
    ours, theirs = ball(6 + seed), ball(5, shift=2.0) | (torch.rand(20, 20, 20) < 0.001)
    a, b = (spacing * surface(mask).nonzero().double() for mask in (ours, theirs))
    apart = torch.cdist(a, b)
    definition = max(float(apart.amin(axis).quantile(0.95)) for axis in (0, 1))
    error = surface_error(ours, theirs, spacing)
    assert abs(error - definition) < 1e-5
    masks = [mask[None, None].float() for mask in (ours, theirs)]
    monai = compute_hausdorff_distance(*masks, percentile=95, spacing=spacing)
    assert abs(error - monai.item()) < 1e-5


def test_surface_error_of_equal_and_absent_classes() -> None:
    labels = ball(6).long()
    assert error_per_class(labels, labels, 2, 2.0) == [0, 0]
    assert torch.tensor(error_per_class(labels, 0 * labels, 2, 2.0)).isnan().tolist() == [
        False,
        True,
    ]


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_the_demo_have_a_gradient(name: str) -> None:
    x = torch.randn(2, 4, 8, 8, 8, requires_grad=True)
    target = torch.randint(0, 4, (2, 1, 8, 8, 8))
    make_loss(name, "auto", 2.0)(x, target).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.norm() > 0


# Of two workers on one core.
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader_example(workers: int) -> None:
    losses = boundary_dataloader.train(count=16, epochs=3, workers=workers)
    assert losses[-1] < losses[0]
