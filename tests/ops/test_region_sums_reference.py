"""What makes region_sums' reference fast for class indices, against definitions in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segloss_fast.ops.region_sums import reference
from segloss_fast.ops.region_sums.options import Options
from tests.helpers import relative_l2

IGNORED = 7


def draw(scale: float, voxels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, labels some of which are ignored, and weights."""
    generator = torch.Generator().manual_seed(voxels)
    x = scale * torch.randn((2, 4, voxels), generator=generator)
    labels = torch.randint(0, 4, (2, voxels), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORED
    return x, labels, torch.rand((2, 4, voxels), generator=generator)


def focal(x: Tensor, labels: Tensor, w: Tensor, gamma: float) -> Tensor:
    """Return the focal sums by the formula, float64."""
    counted = labels != IGNORED
    t = torch.nn.functional.one_hot(labels * counted, 4).mT * counted[:, None]
    log_p = x.double().log_softmax(1)
    return -(w.double() * t * (1 - log_p.exp()).pow(gamma) * log_p).sum(2)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 2.5])
@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("voxels", [5, 512, 1500])
def test_the_focal_term_of_a_softmax(gamma: float, scale: float, voxels: int) -> None:
    """Also of logits so far apart that most probabilities are nearly 0 or 1."""
    x, labels, w = draw(scale, voxels)
    options = Options(("focal",), "softmax", "softmax", gamma, IGNORED)
    factors = torch.rand((2, 4), dtype=torch.float64)
    found = []
    for dtype in (torch.float32, torch.float64):
        y = x.to(dtype).requires_grad_()
        sums = reference.forward(y, labels, w.to(dtype), options)[0][0]
        (grad,) = torch.autograd.grad((sums * factors).sum(), y)
        found.append((sums.detach(), grad.double()))
    z = x.double().requires_grad_()
    true = focal(z, labels, w, gamma)
    (true_grad,) = torch.autograd.grad((true * factors).sum(), z)
    for (sums, grad), bound in zip(found, (3e-7, 1e-13), strict=True):
        assert relative_l2(sums, true.detach()) < bound
        assert relative_l2(grad, true_grad) < bound


def test_its_second_derivative() -> None:
    x, labels, w = (tensor[..., :6] for tensor in draw(1.0, 512))
    options = Options(("focal",), "softmax", "softmax", 2.0, IGNORED)

    def sums(x: Tensor) -> Tensor:
        return reference.forward(x, labels, w.double(), options)[0]

    assert torch.autograd.gradgradcheck(sums, (x.double().requires_grad_(),))


@pytest.mark.parametrize("soft", [False, True])
def test_squares_of_targets(soft: bool) -> None:
    x, labels, w = draw(1.0, 700)
    target = torch.rand(x.shape) if soft else labels
    options = Options(("target_sq",), "softmax", "softmax", 0.0, None if soft else IGNORED)
    found = reference.forward(x, target, w, options)[0][0]
    t = target.double() if soft else torch.stack([labels == c for c in range(4)], 1).double()
    assert relative_l2(found, (w * t.square()).sum(2)) < 3e-7
