"""The radix sort of the native kernels: buckets of every kind, cut, pooled and crowded.

Errors of the hinge are one subtraction: PyTorch finds the same float32 errors, and the definition,
in float64, what their order makes of them.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.helpers import relative_l2
from tests.machines import Machine, machines_of
from tests.ops import lovasz_definition as definition
from tests.ops.lovasz_cases import NATIVE, options_of, sort
from tests.ops.lovasz_samples import IMPLS
from tests.suite.tiers import few

pytestmark = pytest.mark.skipif("native" not in IMPLS, reason="no native kernels")
# Few voxels are one bucket, more are cut by the highest digit, many by more bits than that.
SIZES = few((3001, 8211, 90, (1 << 19) + 5), test=4)
MACHINES = [m for m in machines_of("lovasz", sets=True) if m.family == "native"]
FEW = 20000  # voxels, for which the truth shares among equal errors
# Where x is: all over, in one bucket of the highest digit, in one of those with more bits.
SPREADS = few((3.0, 0.02, 1e-4), test=3)


def problem(shape: tuple[int, ...], spread: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    target = (torch.rand(shape, generator=generator) < 0.3).to(torch.uint8)
    away = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    # Around an error of 1.3, in the foreground and the background.
    x = torch.where(target == 1, -0.3 - away, 0.3 + away).to(dtype)
    return x[:, None], target


def truth(x: Tensor, target: Tensor) -> tuple[float, Tensor]:
    """Return loss and g of all voxels together; of many the shares of equal errors differ."""
    m = torch.where(target == 1, 1 - x[:, 0], 1 + x[:, 0]).clamp_min(0).double()
    order = definition.exact if m.numel() < FEW else definition.published
    g = order(m.flatten(), (target == 1).flatten()).view_as(m)
    return float((m * g).sum()), torch.where(m > 0, g, 0.0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("dtype", few([torch.float32, torch.float64], test=2), ids=str)
def test_loss_and_order(size: int, spread: float, dtype: torch.dtype) -> None:
    x, target = problem((1, size), spread, dtype)
    loss, g = truth(x, target)
    found = sort(NATIVE, x, target, options_of("hinge"))
    assert abs(float(found.loss) / loss - 1) < 1e-12
    near = 1e-6 if size < FEW or dtype == torch.float64 else 0.02
    assert relative_l2(found.g[:, 0], g) < near
    assert abs(float(found.g.double().sum() / g.sum()) - 1) < 1e-6
    alone = sort(NATIVE, x, target, options_of("hinge"), wants_gradient=False)
    assert torch.equal(alone.loss, found.loss)


@pytest.mark.parametrize("machine", MACHINES, ids=str, indirect=True)
@pytest.mark.parametrize("dtype", few([torch.float32, torch.float64], test=2), ids=str)
def test_pairs_and_more_equal_errors_in_every_row(machine: Machine, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(6)
    target = (torch.rand(1, 3001, generator=generator) < 0.3).to(torch.uint8)
    # As many errors as voxels: a third of these alone, a third in pairs, of one kind or of both.
    away = torch.randint(3001, (1, 3001), generator=generator, dtype=torch.float64) / 4096
    x = torch.where(target == 1, 0.75 - away, away - 0.75).to(dtype)[:, None]
    loss, g = truth(x, target)
    found = sort(machine, x, target, options_of("hinge"))
    assert abs(float(found.loss) / loss - 1) < 1e-12
    error = (found.g[:, 0].double() - g).abs()
    # The definition subtracts numbers below 1.
    assert (error <= (1e-7 if dtype == torch.float32 else 1e-9) * g + 1e-12).all()


@pytest.mark.parametrize("per_image", [False, True])
def test_ignored_voxels_and_pooled_items(per_image: bool) -> None:
    x, target = problem((3, 5003), 3.0, torch.float32)
    ignored = torch.rand(target.shape, generator=torch.Generator().manual_seed(5)) < 0.2
    target[ignored] = 255
    found = sort(NATIVE, x, target, options_of("hinge", per_image=per_image, ignore_index=255))
    assert not found.g[:, 0][ignored].any()
    items = [[0], [1], [2]] if per_image else [[0, 1, 2]]
    for i, item in enumerate(items):
        counted = ~ignored[item]
        some, labels = x[item][:, 0][counted], target[item][counted]
        loss, g = truth(some[None, None], labels[None])
        assert abs(float(found.loss[i, 0]) / loss - 1) < 1e-12
        assert relative_l2(found.g[item][:, 0][counted], g[0]) < 1e-6


@pytest.mark.parametrize("spread", SPREADS)
def test_any_number_of_threads(spread: float) -> None:
    x, target = problem((2, 70001), spread, torch.float32)
    target[:, ::7] = 255
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append(sort(NATIVE, x, target, options_of("hinge", ignore_index=255)))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert torch.equal(found[0].loss, other.loss)
        assert torch.equal(found[0].g, other.g)
