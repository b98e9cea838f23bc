"""Deep supervision: every loss over levels of different size, and one launch for their sums."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

import segloss_fast
from segloss_fast.functional import deep_supervision_loss, dice_loss
from segloss_fast.losses._module import Loss
from tests.conformance import LOSSES, LossRecord
from tests.helpers import IMPLS, assert_close, count_formulas, relative_l2
from tests.records_topk import HARDEST_LOSSES

by_impl = pytest.mark.parametrize("impl", IMPLS)
by_loss = pytest.mark.parametrize("record", LOSSES, ids=lambda record: record.name)
SIZES = ((8, 6, 12), (4, 3, 6), (3, 2, 3))
WEIGHTS = (4 / 7, 2 / 7, 1 / 7)


def levels(sizes: Sequence[tuple[int, ...]] = SIZES) -> tuple[list[Tensor], Tensor]:
    """Return an input per level, and the target of the first; 255 is to be ignored."""
    generator = torch.Generator().manual_seed(0)
    xs = [torch.randn(2, 3, *size, generator=generator, dtype=torch.float64) for size in sizes]
    labels = torch.randint(0, 3, (2, *sizes[0]), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
    return xs, labels


def nearest(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize ``[B, C, *S]`` as torch does."""
    return interpolate(values.double(), size=size, mode="nearest-exact")


def gradients(value: Tensor, xs: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype).view_as(value)
    return list(torch.autograd.grad((value * weights).sum(), xs))


@by_loss
@by_impl
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_is_the_weighted_sum_of_the_levels(record: LossRecord, impl: str, reduction: str) -> None:
    xs, labels = levels()
    weight = torch.rand(2, 1, *SIZES[0])
    for own in record.keywords:
        keywords = {**own, "ignore_index": 255, "reduction": reduction, "impl": impl}
        loss: Any = record.module(**keywords)
        xs = [x.detach().requires_grad_() for x in xs]
        value = segloss_fast.DeepSupervisionLoss(loss)(xs, labels, weight)
        grads = gradients(value, xs)
        parts = []
        for x, share in zip(xs, WEIGHTS, strict=True):
            size = x.shape[2:]
            if "spacing" in loss.keywords:  # of the first level, whose extent all levels have
                spacing = own.get("spacing", 1.0)
                own_spacing = [spacing * a / b for a, b in zip(SIZES[0], size, strict=True)]
                keywords["spacing"] = own_spacing
            target = nearest(labels[:, None], size).long()
            part = record.function(x, target, nearest(weight, size), **keywords)
            parts.append(share * part)
        true_value = torch.stack(parts).sum(0)
        assert_close(value, true_value, max(1e-13, record.tolerance), own)
        for grad, true_grad in zip(grads, gradients(true_value, xs), strict=True):
            assert relative_l2(grad, true_grad) < max(1e-13, record.tolerance), own


@by_loss
def test_sums_come_from_one_launch(record: LossRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def count(name: str, call: Any) -> Any:  # noqa: ANN401
        def counted(*arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
            calls.append(name)
            return call(*arguments, **keywords)

        return counted

    module = "segloss_fast.losses"
    one = count("one", segloss_fast.region_sums)
    monkeypatch.setattr(f"{module}._reduce.region_sums", one)
    monkeypatch.setattr(f"{module}.deep_supervision.region_sums", one)
    multi = count("multi", segloss_fast.region_sums_multi)
    monkeypatch.setattr(f"{module}.deep_supervision.region_sums_multi", multi)
    formulas: list[Any] = []
    count_formulas(monkeypatch, formulas)
    xs, labels = levels()
    loss: Any = record.module()
    segloss_fast.DeepSupervisionLoss(loss)(xs, labels.masked_fill(labels == 255, 0))
    # Fields weigh the sums of a level: distances, or which voxels are the hardest.
    fields = "distance_transform" in record.primitives or record in HARDEST_LOSSES
    fields = fields and record.passes > 0  # losses over cells take all from sums of their own
    assert calls.count("one") == (len(xs) if fields else 0)
    assert calls.count("multi") + len(formulas) == record.passes - int(fields)


def test_sums_of_other_tensors_than_the_levels_are_their_own() -> None:
    def sharpened(x: Tensor, target: Tensor, weight: Tensor | None, **keywords: Any) -> Tensor:  # noqa: ANN401
        return dice_loss(2 * x, target, weight, **keywords) + dice_loss(x, target, **keywords)

    xs, labels = levels()
    weight = torch.rand(2, 1, *SIZES[0])
    loss = Loss(sharpened, ignore_index=255)
    value = deep_supervision_loss(xs, labels, weight, loss=loss)
    parts = [
        share * loss(x, nearest(labels[:, None], SIZES[i]), nearest(weight, SIZES[i]))
        for i, (x, share) in enumerate(zip(xs, WEIGHTS, strict=True))
    ]
    assert_close(value, torch.stack(parts).sum(), 1e-14)


@pytest.mark.parametrize("kind", ["labels", "channel", "dense", "bool", "uint8"])
def test_targets_are_resized_to_the_nearest_voxel_or_given(kind: str) -> None:
    xs, labels = levels(((9, 6, 12), (8, 5, 12), (5, 4, 7), (4, 2, 6), (4, 1, 3)))
    labels[labels == 255] = 0
    one_hot = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)
    target: Tensor = {
        "labels": labels,
        "channel": labels[:, None].float(),
        "dense": one_hot.double() * 0.7,
        "bool": one_hot.bool(),
        "uint8": labels.to(torch.uint8),
    }[kind]
    channels = target if target.dim() == 5 else target[:, None]
    given = [nearest(channels, tuple(x.shape[2:])).to(target.dtype) for x in xs]
    loss = segloss_fast.DeepSupervisionLoss(segloss_fast.DiceLoss())
    assert torch.equal(loss(xs, target), loss(xs, given))


def test_a_target_is_resized_without_a_copy_where_sides_divide() -> None:
    from segloss_fast.losses._levels import _nearest

    target = torch.arange(2 * 8 * 6).view(2, 8, 6)
    assert _nearest(target, (4, 2)).data_ptr() == target[:, 1, 1].data_ptr()
    assert torch.equal(_nearest(target, (4, 2)), target[:, 1::2, 1::3])
    assert _nearest(target, (8, 6)) is not None


@by_impl
def test_levels_of_weight_0_are_not_computed(impl: str) -> None:
    xs, labels = levels()
    xs[2] = torch.full_like(xs[2], torch.nan)
    xs = [x.requires_grad_() for x in xs]
    loss = segloss_fast.DiceCELoss(ignore_index=255, impl=impl)
    value = deep_supervision_loss(xs, labels, loss=loss, weights=[2.0, 0.5, 0.0])
    value.backward()
    true_value = deep_supervision_loss(xs[:2], labels, loss=loss, weights=[2.0, 0.5])
    assert torch.equal(value, true_value)
    assert value.isfinite()
    assert xs[2].grad is None


def test_one_tensor_is_one_level() -> None:
    xs, labels = levels()
    loss = segloss_fast.FocalLoss(ignore_index=255)
    module = segloss_fast.DeepSupervisionLoss(loss)
    assert torch.equal(module(xs[0], labels), loss(xs[0], labels))
    assert torch.equal(module(xs[:1], [labels]), loss(xs[0], labels))


def test_everything_ignored_is_zero_with_zero_gradient() -> None:
    xs, labels = levels()
    xs = [torch.full_like(x, torch.nan).requires_grad_() for x in xs]
    loss = segloss_fast.DeepSupervisionLoss(segloss_fast.DiceCELoss(ignore_index=255))
    value = loss(xs, torch.full_like(labels, 255))
    value.backward()
    assert value == 0
    for x in xs:
        assert x.grad is not None
        assert (x.grad == 0).all()


@by_impl
def test_gradcheck(impl: str) -> None:
    xs, labels = levels(((4, 4), (2, 2)))
    loss = segloss_fast.DeepSupervisionLoss(segloss_fast.MCCLoss(ignore_index=255, impl=impl))
    leaves = tuple(x.requires_grad_() for x in xs)
    assert torch.autograd.gradcheck(lambda *x: loss(list(x), labels), leaves, eps=1e-6)


@pytest.mark.torch_compile
@by_impl
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(impl: str, dynamic: bool) -> None:
    xs, labels = levels(((8, 6), (4, 3)))
    inner = segloss_fast.DiceCELoss(ignore_index=255, class_weight=[1.0, 2.0, 3.0], impl=impl)
    loss = segloss_fast.DeepSupervisionLoss(inner)
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="eager")
    xs = [x.requires_grad_() for x in xs]
    value, other = loss(xs, labels), compiled(xs, labels)
    assert_close(other, value, 1e-12)
    for grad, true_grad in zip(gradients(other, xs), gradients(value, xs), strict=True):
        assert relative_l2(grad, true_grad) < 1e-12
    torch._dynamo.reset()


def test_is_a_module_like_others() -> None:
    xs, labels = levels()
    inner = segloss_fast.DiceLoss(class_weight=[1.0, 2.0, 3.0], ignore_index=255)
    loss = segloss_fast.DeepSupervisionLoss(inner, [0.5, 0.25, 0.25])
    assert "weights=[0.5, 0.25, 0.25]" in repr(loss)
    assert "DiceLoss(" in repr(loss)
    assert dict(loss.named_buffers())["loss.class_weight"].tolist() == [1, 2, 3]
    copied = pickle.loads(pickle.dumps(loss))
    assert torch.equal(copied(xs, labels), loss(xs, labels))


def test_weights_as_in_nnunet() -> None:
    dice = segloss_fast.DiceLoss()
    xs, labels = levels()
    labels[labels == 255] = 0
    like = segloss_fast.DeepSupervisionLoss(dice, "nnunet")
    assert repr(like).count("weights='nnunet'") == 1
    assert torch.equal(
        like(xs, labels), segloss_fast.DeepSupervisionLoss(dice, [2 / 3, 1 / 3, 0])(xs, labels)
    )
    assert torch.equal(like(xs[:1], labels), dice(xs[0], labels))
    like.weights = None
    assert torch.equal(
        like(xs, labels), segloss_fast.DeepSupervisionLoss(dice, list(WEIGHTS))(xs, labels)
    )
    with pytest.raises(ValueError, match="weights must be"):
        like.weights = "monai"


def test_stacked_heads_are_refused_and_unbound_ones_taken() -> None:
    """What MONAI's DynUNet returns in training: heads of one size, stacked."""
    generator = torch.Generator().manual_seed(0)
    for size in ((16, 16), (4, 5, 6)):
        heads = torch.randn(2, 3, 4, *size, generator=generator)
        target = torch.randint(0, 4, (2, 1, *size), generator=generator)
        module = segloss_fast.DeepSupervisionLoss(segloss_fast.DiceCELoss())
        match = "unbind" if len(size) == 2 else "input must be"
        with pytest.raises(ValueError, match=match):
            module(heads, target)
        single = segloss_fast.DiceCELoss()
        parts = [w * single(heads[:, i], target) for i, w in enumerate(WEIGHTS)]
        torch.testing.assert_close(module(heads.unbind(1), target), torch.stack(parts).sum())


def test_a_target_that_does_not_fit_is_not_resized_to_the_largest_level() -> None:
    xs, labels = levels()
    module = segloss_fast.DeepSupervisionLoss(segloss_fast.DiceLoss(ignore_index=255))
    for target in (labels[:, :4], labels[:1], labels[..., None], labels[:, None, None]):
        with pytest.raises(
            ValueError, match=r"targets must be \[2, 8, 6, 12\], \[2, 1, 8, 6, 12\]"
        ):
            module(xs, target)
    for weight in (torch.ones(2, 1, 4, 3, 6), torch.ones(2, 2, 8, 6, 12), torch.ones(2, 8, 6, 12)):
        with pytest.raises(ValueError, match=r"voxel_weights must be \[2, 1, 8, 6, 12\] or"):
            module(xs, labels, weight)
    for order in (xs[::-1], [xs[0], xs[2], xs[1]]):
        with pytest.raises(ValueError, match=r"ordered by size|targets must be"):
            module(order, labels)
    with pytest.raises(ValueError, match=r"got \[2, 3, 4, 3, 6\] as inputs\[2\]"):
        module([xs[0], xs[2], xs[1]], labels)


def test_bad_arguments_are_refused() -> None:
    xs, labels = levels()
    dice = segloss_fast.DiceLoss(ignore_index=255)
    for loss, weights, error, text in [
        (torch.nn.CrossEntropyLoss(), None, TypeError, "loss must be a loss of segloss_fast"),
        (dice, 1.0, TypeError, "weights must hold a number per level, got float"),
        (dice, [1.0, "a"], TypeError, "weights must be a number, got str"),
        (dice, [1.0, float("nan")], ValueError, "weights must be a finite number"),
        (dice, [0.0, 0.0], ValueError, "weights must not all be 0"),
    ]:
        bad: Any = loss
        with pytest.raises(error, match=text):
            segloss_fast.DeepSupervisionLoss(bad, weights)  # type: ignore[arg-type]
        with pytest.raises(error, match=text):
            deep_supervision_loss(xs, labels, loss=bad, weights=weights)  # type: ignore[arg-type]
    module: Any = segloss_fast.DeepSupervisionLoss(dice)
    for arguments, error, text in [
        ((xs, labels[0]), ValueError, "targets must be"),
        ((xs, [labels]), ValueError, "targets must hold 3 tensors, one per input, got 1"),
        (([], labels), ValueError, "inputs must hold at least one tensor"),
        (({"a": xs[0]}, labels), TypeError, "inputs must be a tensor, or a list of them, got dict"),
        ((xs, None), TypeError, "targets must be a tensor, or a list of them, got NoneType"),
        ((xs, labels, [labels.double()[:, None]]), ValueError, "voxel_weights must hold 3 tensors"),
        (([xs[0], xs[1].float()], labels), ValueError, "inputs must have one dtype"),
        (([xs[0], xs[1].long()], labels), TypeError, "input must have one of the dtypes"),
    ]:
        with pytest.raises(error, match=text):
            module(*arguments)
    with pytest.raises(ValueError, match="weights must hold 3 numbers, one per input"):
        segloss_fast.DeepSupervisionLoss(dice, [0.5, 0.5])(xs, labels)
