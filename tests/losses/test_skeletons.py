"""The tubes around skeletons that SkeletonRecallLoss reads, against scipy's dilation."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from scipy import ndimage

import segloss_fast


@pytest.mark.parametrize("radius", [0, 1, 2, 5])
@pytest.mark.parametrize("shape", [(17,), (9, 12), (1, 7), (5, 6, 8)])
def test_tube_is_scipys_dilation(shape: tuple[int, ...], radius: int) -> None:
    generator = torch.Generator().manual_seed(radius)
    mask = torch.rand(2, *shape, generator=generator) < 0.04
    labels = torch.randint(0, 4, (2, *shape), generator=generator, dtype=torch.uint8)
    found = segloss_fast.tubed_skeleton(mask, labels, radius)
    cross = ndimage.generate_binary_structure(len(shape), 1)
    for item in range(2):
        true = mask[item].numpy()
        if radius:
            true = ndimage.binary_dilation(true, cross, radius)
        assert torch.equal(found[item], labels[item] * torch.from_numpy(true))
        one = segloss_fast.tubed_skeleton(mask[item], labels[item], radius, batched=False)
        assert torch.equal(one, found[item])
    assert found.dtype == torch.uint8
    channel = segloss_fast.tubed_skeleton(mask[:, None], labels[:, None], radius)
    assert torch.equal(channel, found[:, None])
    skipped = segloss_fast.tubed_skeleton(mask, labels, radius, ignore_index=3)
    assert torch.equal(skipped, torch.where(labels == 3, 0, found))


def test_levels_keep_every_thin_tube() -> None:
    labels = torch.zeros(1, 1, 8, 12, dtype=torch.int64)
    labels[0, 0, 3] = 1
    labels[0, 0, :, 5] = 2
    shapes = [(8, 12), (4, 6), (3, 5), (1, 1)]
    found = segloss_fast.tubed_skeleton(labels > 0, labels, 0, level_shapes=shapes)
    assert torch.equal(found[0], labels)
    for level, (high, wide) in zip(found, shapes, strict=True):
        assert level.dtype == labels.dtype
        for i, j in itertools.product(range(high), range(wide)):
            rows = slice(i * 8 // high, -(-(i + 1) * 8 // high))
            columns = slice(j * 12 // wide, -(-(j + 1) * 12 // wide))
            assert level[0, 0, i, j] == labels[0, 0, rows, columns].max()
    (small,) = segloss_fast.tubed_skeleton(
        labels[0, 0] > 0, labels[0, 0], 0, level_shapes=[(4, 6)], batched=False
    )
    assert torch.equal(small, found[1][0, 0])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"radius": -1}, ValueError, "radius must be at least 0, got -1"),
        ({"radius": 1.5}, TypeError, "radius must be an int, got float"),
        ({"skeleton": torch.zeros(1, 4, 4)}, ValueError, "must have the same shape"),
        ({"skeleton": [0, 1]}, TypeError, "skeleton"),
        ({"level_shapes": [(4, 4)]}, ValueError, r"between 1 and \[4, 3\], got \[4, 4\]"),
        ({"level_shapes": [(0, 3)]}, ValueError, "level_shapes must lie between"),
        ({"level_shapes": [(2, 2, 2)]}, ValueError, "a size for each spatial axis"),
    ],
)
def test_wrong_tubes_are_said(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    right: dict[str, Any] = {"skeleton": torch.zeros(1, 4, 3), "labels": torch.zeros(1, 4, 3)}
    with pytest.raises(error, match=message):
        segloss_fast.tubed_skeleton(**{**right, **changes})
