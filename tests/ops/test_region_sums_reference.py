"""What makes region_sums' reference fast for class indices, against definitions in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast import region_sums
from segloss_fast.ops._voxels.maps import clamped_log, clamped_log_one_minus
from segloss_fast.ops.region_sums import reference
from segloss_fast.ops.region_sums.options import Options
from tests.helpers import relative_l2

pytestmark = pytest.mark.of("reference")

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_logarithms_of_probabilities(dtype: torch.dtype) -> None:
    """At least -100, as torch's; the derivative that of log max(p, 1e-12), not 0 below it."""
    small = [0.0, 1e-45, 1e-30, 9e-13, 1.1e-12, 1e-6, 0.3, 1.0, torch.nan]
    near_one = [1.0, 1 - 2.0**-53, 1 - 2.0**-24, 1 - 1e-6, 0.7, 1e-30, 0.0, torch.nan]
    for log, values, sign in ((clamped_log, small, 1), (clamped_log_one_minus, near_one, -1)):
        p = torch.tensor(values, dtype=dtype).requires_grad_()
        found = log(p)
        (first,) = torch.autograd.grad(found.sum(), p, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), p)
        exact = p.detach() if sign > 0 else 1 - p.detach()
        true = exact.double().log() if sign > 0 else torch.log1p(-p.detach().double())
        options: dict[str, Any] = {"equal_nan": True, "check_dtype": False, "rtol": 1e-6, "atol": 0}
        torch.testing.assert_close(found.detach(), true.clamp_min(-100), **options)
        slope = sign / exact.clamp_min(1e-12)
        torch.testing.assert_close(first.detach(), slope, **options)
        curve = torch.where(exact < 1e-12, 0, -slope.double().square())
        torch.testing.assert_close(second, curve, **options)


def test_labels_that_require_a_gradient_are_read() -> None:
    """Numbers of some other computation; a warning of torch is an error in the tests."""
    x, labels, _ = draw(1.0, 700)
    target = labels.double().requires_grad_()
    options: dict[str, Any] = {"terms": ("tp", "nll"), "ignore_index": IGNORED, "impl": "reference"}
    assert torch.equal(
        region_sums(x, target, **options).rows, region_sums(x, labels, **options).rows
    )


@pytest.mark.parametrize("ignored", [-100, 300])
def test_a_label_that_the_dtype_cannot_hold_ignores_nothing(ignored: int) -> None:
    x, labels, _ = draw(1.0, 700)
    labels = labels.clamp_max(3).to(torch.uint8)
    x[0, 0, 0] = torch.inf  # so that nothing is trusted
    found = [
        reference.forward(x, labels, None, Options(("tp",), "sigmoid", "sigmoid", 0.0, ignore))
        for ignore in (ignored, None)
    ]
    for with_it, without in zip(*found, strict=True):
        assert torch.equal(with_it, without)
