"""The Lovász losses against kornia and segmentation-models-pytorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segloss_fast import functional
from tests.helpers import relative_l2
from tests.ops.lovasz_samples import IMPLS
from tests.peers import smp_losses

pytestmark = pytest.mark.peers

by_impl = pytest.mark.parametrize("impl", IMPLS)
by_method = pytest.mark.parametrize("method", ["sort", "histogram"])
CASES = 8


@pytest.fixture(scope="module")
def kornia() -> Any:  # noqa: ANN401
    return pytest.importorskip("kornia").losses


@pytest.fixture(scope="module")
def smp() -> Any:  # noqa: ANN401
    return smp_losses("lovasz")


def case(seed: int, classes: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits, of float32 and any spread, and labels, in which classes may be absent."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.randint(2, 9, (rank,), generator=generator).tolist()
    spread = 10 ** (2 * torch.rand((), generator=generator) - 1)
    x = spread * torch.randn((3, classes, *size), generator=generator)
    return x, torch.randint(0, max(classes, 2), (3, *size), generator=generator)


@by_impl
@by_method
def test_kornia(kornia: Any, impl: str, method: str) -> None:  # noqa: ANN401
    options: dict[str, Any] = {"per_image": True, "method": method, "impl": impl}
    for seed in range(CASES):
        x, target = case(seed, 2 + seed % 4, 2)
        found = functional.lovasz_softmax_loss(x, target, classes="all", **options)
        torch.testing.assert_close(
            found, kornia.lovasz_softmax_loss(x, target), rtol=1e-5, atol=1e-5
        )
        x, target = case(seed, 1, 2)
        found = functional.lovasz_hinge_loss(x, target, **options)
        torch.testing.assert_close(found, kornia.lovasz_hinge_loss(x, target), rtol=1e-5, atol=1e-5)


@by_impl
@by_method
@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("per_image", [False, True])
def test_smp(smp: Any, impl: str, method: str, rank: int, per_image: bool) -> None:  # noqa: ANN401
    options: dict[str, Any] = {"per_image": per_image, "method": method, "impl": impl}
    for seed in range(CASES):
        x, target = case(seed, 2 + seed % 4, rank)
        target[torch.rand(target.shape) < 0.1] = 255
        peer = smp.LovaszLoss("multiclass", per_image=per_image, ignore_index=255)
        found = functional.lovasz_softmax_loss(x, target, ignore_index=255, **options)
        torch.testing.assert_close(found, peer(x, target), rtol=1e-5, atol=1e-5)
        x, target = case(seed, 1, rank)
        peer = smp.LovaszLoss("binary", per_image=per_image)
        found = functional.lovasz_hinge_loss(x, target, **options)
        torch.testing.assert_close(found, peer(x, target), rtol=1e-5, atol=1e-5)


@by_impl
def test_gradient_of_smp(smp: Any, impl: str) -> None:  # noqa: ANN401
    x, target = case(3, 4, 2)  # few voxels: it subtracts neighbouring values in float32
    mine, theirs = (x.clone().requires_grad_() for _ in range(2))
    functional.lovasz_softmax_loss(mine, target, method="sort", impl=impl).backward()
    smp.LovaszLoss("multiclass")(theirs, target).backward()
    assert mine.grad is not None
    assert theirs.grad is not None
    assert relative_l2(mine.grad, theirs.grad) < 1e-5
