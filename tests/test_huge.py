"""Tensors of 2^31 elements and more, within 12 GiB: an index of 32 bits would read other voxels.

The input is expanded, so that it takes no memory, and all labels lie behind the element 2^31: what
wraps around sees none of them. ``make huge`` runs all, ``make test-all`` the first.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import segloss_fast
from segloss_fast._native import _C
from segloss_fast.ops.confusion_sums import confusion_sums
from segloss_fast.ops.hardest_voxels import Rule, hardest_voxels
from segloss_fast.ops.region_masks import prediction_masks, target_masks
from segloss_fast.ops.soft_skeleton import soft_skeleton
from tests.suite.tiers import begins_in

pytestmark = [pytest.mark.huge, pytest.mark.skipif(_C is None, reason="the kernels are not built")]

MEMORY = 12 * 2**30
VOXELS = 2**31 + 2**12
MARKED = 1000  # voxels of class 1, all of them last
P = torch.tensor([1.0, -0.5]).softmax(0).double()


def available() -> int:
    """Return the bytes that can be had."""
    with open("/proc/meminfo") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


@pytest.fixture(autouse=True)
def enough_memory() -> None:
    if available() < MEMORY:
        pytest.skip("less than 12 GiB of memory")


@pytest.fixture
def labels() -> Tensor:
    found = torch.zeros(1, VOXELS, dtype=torch.uint8)
    found[0, -MARKED:] = 1
    return found


def logits() -> Tensor:
    return torch.tensor([1.0, -0.5])[None, :, None].expand(1, 2, VOXELS)


@begins_in("all")
def test_region_sums(labels: Tensor) -> None:
    sums = segloss_fast.region_sums(logits(), labels, terms=("tp", "pred", "target"), impl="native")
    outside = VOXELS - MARKED
    torch.testing.assert_close(sums.target, torch.tensor([[outside, MARKED]]).double())
    expected = torch.stack([outside * P[0], MARKED * P[1]])[None]
    torch.testing.assert_close(sums.tp, expected, rtol=1e-6, atol=0)  # of a softmax in float32
    torch.testing.assert_close(sums.pred, VOXELS * P[None], rtol=1e-6, atol=0)


@begins_in("all")
def test_a_mask_of_too_many_voxels_is_refused() -> None:
    mask = torch.zeros((), dtype=torch.bool).expand(1, 1, 2**11, 2**10, 2**10)
    with pytest.raises((ValueError, RuntimeError), match=r"2\^31"):
        segloss_fast.connected_components(mask, impl="native")


@begins_in("hand")
def test_lovasz(labels: Tensor) -> None:
    counts = segloss_fast.lovasz_counts(logits(), labels, impl="native").sum(-1)
    assert counts.tolist() == [[[MARKED, VOXELS - MARKED], [VOXELS - MARKED, MARKED]]]


@begins_in("hand")
def test_confusion_sums(labels: Tensor) -> None:
    sums = confusion_sums(logits(), labels, impl="native")[0]
    numbers = torch.tensor([[VOXELS - MARKED], [MARKED]]).double()
    expected = torch.cat([numbers * P, numbers], 1)
    torch.testing.assert_close(sums, expected, rtol=1e-6, atol=0)


@begins_in("hand")
def test_component_sums(labels: Tensor) -> None:
    bins = torch.zeros((), dtype=torch.int32).expand(1, 1, VOXELS)
    sums = segloss_fast.component_sums(logits(), labels, bins, count=1, impl="native")
    assert sums.target[0, 1].sum() == MARKED


@begins_in("hand")
@pytest.mark.parametrize(
    ("wanted", "of_marked", "of_others"),
    [(MARKED // 2, 0.5, 0.0), (MARKED + 2**30, 1.0, 2**30 / (VOXELS - MARKED))],
)
def test_hardest_voxels(labels: Tensor, wanted: int, of_marked: float, of_others: float) -> None:
    """The marked are harder; voxels of equal cross-entropy share what is wanted."""
    rule = Rule(k=100 * (wanted + 0.5) / VOXELS, activation="softmax")
    weights, total = hardest_voxels(logits(), labels, None, rule, impl="native")
    assert total.tolist() == pytest.approx([wanted], rel=1e-7)  # a share is a float32
    last = torch.full((MARKED,), of_marked)
    torch.testing.assert_close(weights[0, 0, -MARKED:], last, rtol=1e-6, atol=0)
    ends = weights[0, 0, : VOXELS - MARKED].aminmax()
    for end in ends:
        assert float(end) == pytest.approx(of_others, rel=1e-6)


@begins_in("hand")
def test_region_masks(labels: Tensor) -> None:
    """Of 2 GiB of labels, to 4 GiB of masks."""
    masks = target_masks(labels, 2, dense=False, impl="native")
    assert masks[0, 1, -MARKED:].all()
    assert not masks[0, 1, : VOXELS - MARKED].any()
    assert masks[0, 0, : VOXELS - MARKED].all()
    assert not masks[0, 0, -MARKED:].any()
    del masks
    masks = prediction_masks(logits(), labels, activation="softmax", ignore_index=1, impl="native")
    assert masks[0, 0, : VOXELS - MARKED].all()
    assert not masks[0, 0, -MARKED:].any()  # ignored
    assert not masks[0, 1].any()


@begins_in("hand")
def test_soft_skeleton_of_masks() -> None:
    """A line is its own skeleton, that of a cube of three voxels a side is its centre."""
    mask = torch.zeros(1, 1, 2**11 + 8, 2**10, 2**10, dtype=torch.bool)
    mask[0, 0, -3, 7, 100:900] = True
    mask[0, 0, -7:-4, 500:503, 600:603] = True
    found = soft_skeleton(mask, 2, impl="native")
    assert found[0, 0, -3, 7, 100:900].all()
    assert found[0, 0, -6, 501, 601]
    assert found.sum() == 801


@begins_in("hand")
def test_gradient_of_soft_skeleton() -> None:
    """To 8 GiB; values and weights differ along two axes alone, and take no memory.

    Both ends are MONAI's gradients of pieces so long that their cuts do not show there.
    """
    soft_skel = pytest.importorskip("monai.losses.cldice").soft_skel
    shape = (1, 1, 2**11 + 8, 2**10, 2**10)
    draw = torch.Generator().manual_seed(0)
    values = torch.rand(*shape[:3], 1, shape[-1], generator=draw).expand(shape)
    weights = torch.rand(*shape[:3], 1, shape[-1], generator=draw).expand(shape)
    found = torch.ops.segloss_fast._soft_skeleton_backward(weights, values, 1, 0)
    assert found.numel() > 2**31
    for piece, kept in ((slice(0, 24), slice(0, 4)), (slice(-24, None), slice(-4, None))):
        x = values[:, :, piece, :24].double().requires_grad_()
        (soft_skel(x, 1) * weights[:, :, piece, :24]).sum().backward()
        assert x.grad is not None
        torch.testing.assert_close(
            found[:, :, piece, :24][:, :, kept, :4].double(),
            x.grad[:, :, kept, :4],
            rtol=1e-5,
            atol=1e-6,
        )


@begins_in("hand")
def test_gradient(labels: Tensor) -> None:
    """Of float16: 8 GiB beside the labels."""
    x = torch.tensor([1.0, -0.5], dtype=torch.float16)[None, :, None].expand(1, 2, VOXELS)
    x = x.detach().requires_grad_()
    sums = segloss_fast.region_sums(x, labels, terms=("tp",), impl="native")
    (grad,) = torch.autograd.grad(sums.tp[0, 1] * 4, x)
    slope = 4 * P[0] * P[1]
    assert grad[0, 1, -MARKED:].double().allclose(slope.expand(MARKED), rtol=1e-3)
    assert grad[0, 0, -MARKED:].double().allclose(-slope.expand(MARKED), rtol=1e-3)
    assert not grad[0, :, : VOXELS - MARKED].any()


@begins_in("hand")
def test_distance_transform() -> None:
    """Of 2 GiB of mask, to 8 GiB of distances."""
    mask = torch.ones(1, 1, 2**10 + 1, 2**10, 2**11, dtype=torch.bool)
    mask[..., -1, 0, :] = False
    found = segloss_fast.distance_transform(mask, impl="native")
    assert found.numel() > 2**31
    assert found[0, 0, -1, 0].sum() == 0
    assert found[0, 0, -1, 1:, 5].tolist() == list(range(1, 2**10))
    assert found[0, 0, 0, 0, 7] == 2**10
