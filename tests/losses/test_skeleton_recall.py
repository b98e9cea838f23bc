"""Skeleton recall against its definition and its authors' numbers."""

from __future__ import annotations

import copy
import functools
import itertools
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import segloss_fast
from segloss_fast.functional import skeleton_recall_loss
from tests import oracles
from tests.helpers import IMPLS, gradient, relative_l2

by_impl = pytest.mark.parametrize("impl", IMPLS)
ALONE: dict[str, Any] = {"lambda_dice": 0.0, "lambda_ce": 0.0}


def oracle(
    x: Tensor, target: Tensor, skeleton: Tensor, weight: Tensor | None, options: dict[str, Any]
) -> Tensor:
    """Kirchhoff 2024, with the recall counted as 1 - recall."""
    o = options.get
    problem = oracles.volume(x, target, weight, options)
    drawn = oracles.volume(x, skeleton, None, {**options, "ignore_index": None})
    thin = replace(problem, t=drawn.t)
    if x.shape[1] > 1 and skeleton.shape != x.shape:
        thin.options = {**options, "include_background": False}
    nr, dr = o("smooth_nr", 1e-5), o("smooth_dr", 1e-5)

    def recall(p: Tensor, s: Tensor, w: Tensor) -> Tensor:
        return torch.div((w * p * s).sum() + nr, (w * s).sum() + dr)

    missed = oracles.region(thin, recall)
    if o("reduction") == "none" and missed.shape[-1] < x.shape[1]:
        missed = torch.cat([torch.zeros_like(missed[..., :1]), missed], -1)
    rest = oracles.compound(
        oracles.dice, oracles.cross_entropy, ("lambda_dice", "lambda_ce"), background=True
    )(problem)
    loss: Tensor = o("lambda_recall", 1.0) * missed + rest
    return loss


def lines(generator: torch.Generator, labels: Tensor) -> Tensor:
    """Return labels on a twelfth of the voxels."""
    some = torch.rand(labels.shape, generator=generator) < 1 / 12
    return torch.where(some, labels, 0)


OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    ALONE,
    {"lambda_recall": 0.3, "lambda_ce": 2.0, "batch": True, "include_background": False},
    {"ignore_index": 255, "absent": "skip", "class_weight": [0.5, 1.0, 3.0]},
    {"ignore_index": -7, "smooth_nr": 0.0, "smooth_dr": 0.1, "reduction": "sum"},
    {"activation": "sigmoid", "reduction": "none"},
    {"batch": True, "reduction": "none", "smooth_nr": 1.0, **ALONE},
)


@by_impl
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_its_definition(impl: str, options: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 9, 11, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 4, 9, 11), generator=generator)
    labels[1][labels[1] == 2] = 1  # an item without one of the classes
    skeleton = lines(generator, labels)
    weight = torch.rand(2, 1, 4, 9, 11, generator=generator, dtype=torch.float64)
    ignored = options.get("ignore_index")
    if ignored is not None:
        labels[:, 1, 2:5] = ignored
        x[:, :, 1, 2] = torch.nan  # where nothing counts, a skeleton or not
    for voxel_weight, kind in itertools.product((None, weight), (torch.int64, torch.uint8)):

        def loss(x: Tensor, w: Any = voxel_weight, kind: Any = kind) -> Tensor:  # noqa: ANN401
            line = skeleton.to(kind)
            return skeleton_recall_loss(x, labels, w, skeleton=line, impl=impl, **options)

        def truth(x: Tensor, w: Any = voxel_weight) -> Tensor:  # noqa: ANN401
            return oracle(x, labels, skeleton, w, options)

        value, grad = gradient(loss, x)
        true_value, true_grad = gradient(truth, x)
        assert relative_l2(value, true_value) < 1e-12
        assert relative_l2(grad.nan_to_num(), true_grad.nan_to_num()) < 1e-11


@by_impl
@pytest.mark.parametrize("activation", ["sigmoid", "probabilities"])
def test_overlapping_structures_have_a_skeleton_each(impl: str, activation: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2, 3, 7, 10, generator=generator, dtype=torch.float64)
    target = (torch.rand(2, 3, 7, 10, generator=generator) < 0.5).double()
    skeleton = (torch.rand(2, 3, 7, 10, generator=generator) < 0.2).double() * target
    for background in (True, False):
        options = {"activation": activation, "include_background": background, **ALONE}
        loss = functools.partial(
            skeleton_recall_loss, target=target, skeleton=skeleton, impl=impl, **options
        )
        truth = functools.partial(
            oracle, target=target, skeleton=skeleton, weight=None, options=options
        )
        value, grad = gradient(loss, x)
        true = gradient(truth, x)
        assert relative_l2(value, true[0]) < 1e-12
        assert relative_l2(grad, true[1]) < 1e-11


@by_impl
@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_one_class(impl: str, kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 1, 8, 9, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 2, (2, 8, 9), generator=generator)
    skeleton = lines(generator, target)
    target[:, 3] = 9
    options: dict[str, Any] = {"activation": "sigmoid", "ignore_index": 9}
    given = skeleton.to(kind)[:, None] if kind.is_floating_point else skeleton.to(kind)
    value, grad = gradient(
        lambda x: skeleton_recall_loss(x, target, skeleton=given, impl=impl, **options), x
    )
    true = gradient(lambda x: oracle(x, target, skeleton, None, options), x)
    assert relative_l2(value, true[0]) < 1e-12
    assert relative_l2(grad, true[1]) < 1e-11


def authors_fixture() -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, labels, and the skeleton that scikit-image 0.26 finds of the labels."""
    b, c, d, h, w = np.ogrid[:2, :2, :6, :7, :8]
    x = torch.tensor(2 * np.sin(0.7 * d + 1.3 * h + 0.45 * w + 0.9 * c + 0.35 * b))
    labels = torch.zeros(2, 6, 7, 8, dtype=torch.int64)
    labels[0, 0:2, 0:2, 0:3] = labels[0, 3:6, 4:6, 5:8] = labels[0, 5, 0, 0] = 1
    labels[1, 1:4, 2:5, 2:6] = 1
    skeleton = torch.zeros(2, 6, 7, 8, dtype=torch.bool)
    for place in ((0, 4, 5, 6), (0, 5, 0, 0), (1, 2, 3, 3), (1, 2, 3, 4)):
        skeleton[place] = True
    return x, labels, skeleton


@by_impl
def test_the_authors_numbers(impl: str) -> None:
    x, labels, skeleton = authors_fixture()
    tube = segloss_fast.tubed_skeleton(skeleton, labels)
    assert tube.sum((1, 2, 3)).tolist() == [15, 28]
    value, grad = gradient(
        lambda x: skeleton_recall_loss(x, labels, skeleton=tube, impl=impl, **ALONE), x
    )
    # Their class computes in float32, and returns -recall.
    assert float(value) - 1 == pytest.approx(-0.6005402129, abs=6e-8)
    assert float(grad.abs().sum()) == pytest.approx(0.3562780774, abs=6e-8)


def test_what_is_wrong_is_said() -> None:
    x, labels = torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, 5, dtype=torch.int64)
    loss = segloss_fast.SkeletonRecallLoss()
    with pytest.raises(TypeError, match="skeleton must be a tensor unless lambda_recall is 0"):
        loss(x, labels)
    with pytest.raises(ValueError, match=r"skeleton must be class indices of shape \[2, 4, 5\]"):
        loss(x, labels, skeleton=labels[:, :3])
    with pytest.raises(TypeError, match="skeleton must have one of the dtypes"):
        loss(x, labels, skeleton=x.to(torch.complex64))
    with pytest.raises(ValueError, match=r"skeleton must hold class indices in \[0, 3\).* 3$"):
        loss(x, labels, skeleton=labels + 3)
    ignoring = segloss_fast.SkeletonRecallLoss(ignore_index=255)
    with pytest.raises(ValueError, match=r"skeleton must hold class indices .* -1$"):
        ignoring(x, labels, skeleton=labels - 1)
    with pytest.raises(ValueError, match="skeleton must be class indices where ignore_index is"):
        ignoring(x, labels, skeleton=x)
    with pytest.raises(ValueError, match=r"^target must hold class indices in \[0, 3\)"):
        loss(x, labels + 7, skeleton=labels)
    with pytest.raises(TypeError, match="lambda_recall"):
        segloss_fast.SkeletonRecallLoss(lambda_recall="a")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="has no keyword 'skeleton_weight'"):
        segloss_fast.SkeletonRecallLoss(skeleton_weight=2.0)  # type: ignore[call-arg]


@by_impl
def test_edges(impl: str) -> None:
    x, labels, skeleton = authors_fixture()
    tube = segloss_fast.tubed_skeleton(skeleton, labels)
    loss = segloss_fast.SkeletonRecallLoss(impl=impl, **ALONE)
    # A class without a skeleton is found; so is everything where nothing counts.
    value, grad = gradient(lambda x: loss(x, labels, skeleton=0 * tube), x)
    assert float(value) == 0
    assert not grad.any()
    ignoring = segloss_fast.SkeletonRecallLoss(impl=impl, ignore_index=1)
    value, grad = gradient(lambda x: ignoring(x, torch.ones_like(labels), skeleton=tube), x)
    assert float(value) == 0
    assert not grad.any()
    empty = segloss_fast.SkeletonRecallLoss(impl=impl)(x[:0], labels[:0], skeleton=tube[:0])
    assert float(empty) == 0
    value, grad = gradient(
        lambda x: loss(x, labels, skeleton=tube), x.masked_fill(x == x[0, 0, 4, 5, 6], torch.nan)
    )
    assert value.isnan()


def test_module_compiles_copies_and_adds() -> None:
    x, labels, skeleton = authors_fixture()
    tube = segloss_fast.tubed_skeleton(skeleton, labels)
    loss = segloss_fast.SkeletonRecallLoss(lambda_recall=0.5)
    value = loss(x, labels, skeleton=tube)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, labels, skeleton=tube), value)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(x, labels, skeleton=tube), value)
    both = loss + 2 * segloss_fast.HausdorffDTLoss()
    assert both(x, labels, skeleton=tube) == value + 2 * segloss_fast.HausdorffDTLoss()(x, labels)
    loss.lambda_recall = 0.0
    assert torch.equal(loss(x, labels), segloss_fast.DiceCELoss()(x, labels))


def test_deep_supervision_takes_a_skeleton_per_level() -> None:
    x, labels, skeleton = authors_fixture()
    inputs = [x, x[..., ::2, ::2], x[..., ::3, ::4]]
    targets = [labels, labels[..., ::2, ::2], labels[..., ::3, ::4]]
    tubes = segloss_fast.tubed_skeleton(
        skeleton, labels, level_shapes=[tuple(t.shape[1:]) for t in targets]
    )
    loss = segloss_fast.SkeletonRecallLoss(lambda_recall=0.7)
    deep = segloss_fast.DeepSupervisionLoss(loss, weights=[0.5, 0.3, 0.2])
    each = [loss(*level, skeleton=s) for *level, s in zip(inputs, targets, tubes, strict=True)]
    found = deep(inputs, targets, skeleton=tubes)
    torch.testing.assert_close(found, 0.5 * each[0] + 0.3 * each[1] + 0.2 * each[2])
    # Where there is no skeleton, Dice and cross-entropy still count.
    rest = [segloss_fast.DiceCELoss()(*level) for level in zip(inputs, targets, strict=True)]
    true = 0.5 * each[0] + 0.3 * rest[1] + 0.2 * rest[2]
    torch.testing.assert_close(deep(inputs, targets, skeleton=[tubes[0], None, None]), true)
    torch.testing.assert_close(deep(inputs, targets, skeleton=tubes[0]), true)
    both = segloss_fast.DeepSupervisionLoss(
        loss + segloss_fast.BoundaryLoss(), weights=[0.5, 0.3, 0.2]
    )
    field = segloss_fast.boundary_field(labels, 2)
    added = segloss_fast.DeepSupervisionLoss(segloss_fast.BoundaryLoss(), weights=[0.5, 0.3, 0.2])
    torch.testing.assert_close(
        both(inputs, targets, skeleton=tubes, target_field=field), found + added(inputs, targets)
    )
    for skeletons, error, message in (
        (None, TypeError, "skeleton must be a tensor, or a list of them, got NoneType"),
        (tubes[:2], ValueError, "skeleton must hold 3 tensors or None, one per input, got 2"),
        ([tubes[0], 1, None], TypeError, "skeleton must hold tensors or None, got int"),
    ):
        with pytest.raises(error, match=message):
            deep(inputs, targets, skeleton=skeletons)
    with pytest.raises(TypeError, match="skeleton must be a tensor unless lambda_recall is 0"):
        deep(inputs, targets)
    with pytest.raises(TypeError, match="none of SkeletonRecallLoss takes 'target_field'"):
        deep(inputs, targets, target_field=field)
