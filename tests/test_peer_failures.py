"""Failures that people met in other libraries, each with its public report, tried here.

``docs/robustness.md`` lists them (``python -m tests.robustness``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import segloss_fast
from segloss_fast import distance_transform, functional, lovasz, region_sums
from segloss_fast._native import _C
from tests.helpers import gradient

FAILURES: list[tuple[str, str, str]] = []  # report, what fails there, the test here
Test = Callable[..., None]


def failure(report: str, what: str) -> Callable[[Test], Test]:
    """Note that a test tries what was reported of another library."""

    def note(test: Test) -> Test:
        FAILURES.append((report, what, test.__name__))
        return test

    return note


def sample(classes: int = 3, size: tuple[int, ...] = (8, 9), batch: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, classes, *size, generator=generator)
    return x, torch.randint(max(classes, 2), (batch, *size), generator=generator)


@failure("qubvel-org/segmentation_models.pytorch#463", "sums of float16 overflow at 65504")
def test_half_precision_sums_do_not_overflow() -> None:
    x = torch.zeros(1, 2, 48, 48, 48, dtype=torch.float16)
    labels = torch.zeros(1, 48, 48, 48, dtype=torch.uint8)
    labels[:, 24:] = 1
    value = segloss_fast.DiceLoss()(x, labels)
    assert value.item() == pytest.approx(0.5, abs=1e-6)


@failure("pytorch/pytorch#85786", "cross-entropy of 2^31 elements and more reads where it must not")
@failure("pytorch/pytorch#190139", "offsets of 32 bits in the backward of a spatial NLLLoss")
@failure("microsoft/onnxruntime#32299", "a softmax of more than 2^31 elements is silently wrong")
@failure("triton-lang/triton#1058", "program_id times a stride overflows 32 bits")
@failure("NVIDIA/cub#459", "counts of items of 32 bits: a hang near 2^32")
def test_sizes_beyond_32_bits_are_refused_or_right() -> None:
    """Values past 2^31 in tests/test_huge.py; here sizes whose products would wrap."""
    x = torch.zeros(()).expand(1, 2**33, 2**24)
    with pytest.raises((RuntimeError, MemoryError)):
        region_sums(x, torch.zeros((), dtype=torch.uint8).expand(1, 2**24))
    mask = torch.zeros((), dtype=torch.bool).expand(1, 1, 2, 2**15, 2**15)
    with pytest.raises((ValueError, RuntimeError), match=r"2\^31|voxels"):
        segloss_fast.connected_components(mask)


@failure("MIC-DKFZ/Skeleton-Recall#3", "labels out of range: a device assert, the context is lost")
@failure("microsoft/onnxruntime#28004", "labels out of range are read out of bounds")
@pytest.mark.parametrize("label", [3, 255, -1, 2**31, -(2**62)])
def test_labels_out_of_range_are_an_error(label: int) -> None:
    x, labels = sample()
    labels[1, 3, 4] = label
    for loss in (
        functional.dice_ce_loss,
        functional.cross_entropy_loss,
        functional.lovasz_softmax_loss,
    ):
        with pytest.raises(ValueError, match=f"got 1 other values, the first of which is {label}"):
            loss(x, labels)


@failure("kornia/kornia#839", "an ignored label of 255 meets one_hot")
@failure("Project-MONAI/MONAI#8757", "an ignored label of 255 is out of bounds")
def test_an_ignored_label_beyond_the_classes() -> None:
    x, labels = sample()
    ignored = torch.rand(labels.shape) < 0.3
    marked = labels.masked_fill(ignored, 255)
    value, grad = gradient(lambda x: functional.cross_entropy_loss(x, marked, ignore_index=255), x)
    expected, other = gradient(lambda x: F.cross_entropy(x, marked, ignore_index=255), x)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, other)


@failure("qubvel-org/segmentation_models.pytorch#852", "the mean divides by ignored voxels, too")
@failure("open-mmlab/mmsegmentation#546", "the mean divides by ignored voxels, too")
@pytest.mark.parametrize("name", ["cross_entropy_loss", "focal_loss", "dice_loss"])
def test_ignored_voxels_are_as_if_cropped(name: str) -> None:
    loss: Any = getattr(functional, name)
    x, labels = sample(size=(10, 8), batch=1)
    labels[:, :4] = 255
    whole = loss(x, labels, ignore_index=255)
    torch.testing.assert_close(whole, loss(x[:, :, 4:], labels[:, 4:]))


@failure("pytorch/pytorch#116349", "everything ignored: NaN")
@pytest.mark.parametrize("name", ["cross_entropy_loss", "dice_ce_loss", "lovasz_softmax_loss"])
def test_everything_ignored_is_zero(name: str) -> None:
    loss: Any = getattr(functional, name)
    x, labels = sample()
    value, grad = gradient(lambda x: loss(x, labels * 0 - 100, ignore_index=-100), x)
    assert value == 0
    assert not grad.any()


@failure("MIC-DKFZ/nnUNet#1395", "no foreground: training collapses with the smoothing")
@failure("Project-MONAI/MONAI#8739", "0 / 0 of empty skeletons")
@pytest.mark.parametrize("name", ["dice_loss", "soft_cl_dice_loss", "tversky_loss", "mcc_loss"])
def test_no_foreground_has_a_finite_gradient(name: str) -> None:
    loss: Any = getattr(functional, name)
    x, labels = sample(2, (8, 9))
    value, grad = gradient(lambda x: loss(x, labels * 0), x)
    assert value.isfinite()
    assert grad.isfinite().all()


@failure("MIC-DKFZ/nnUNet#1612", "a loss becomes NaN and nobody says why")
def test_a_nan_shows_and_extreme_logits_do_not_make_one() -> None:
    x, labels = sample()
    value, grad = gradient(lambda x: functional.dice_ce_loss(1e4 * x, labels), x)
    assert value.isfinite()
    assert grad.isfinite().all()
    x[0, 0, 0, 0] = torch.nan
    assert functional.dice_ce_loss(x, labels).isnan()


@failure("scipy/scipy#15585", "distances of a mask without an outside are to a voxel that is none")
def test_distances_of_a_mask_without_an_outside() -> None:
    full = torch.ones(1, 1, 5, 6, dtype=torch.bool)
    assert distance_transform(full, side="signed").isinf().all()
    x, labels = sample(2, (5, 6))
    value, grad = gradient(lambda x: functional.hausdorff_dt_loss(x, labels * 0 + 1), x)
    assert value.isfinite()
    assert grad.isfinite().all()


@failure("pytorch/pytorch#17350", "cross-entropy of segmentation is not deterministic")
@failure("pytorch/pytorch#89492", "cumsum, of which Lovasz losses are made, is not deterministic")
def test_deterministic_algorithms_and_any_number_of_threads() -> None:
    """To the bit with kernels; without them PyTorch adds as its threads have it."""
    x, labels = sample(4, (40, 50, 20))
    threads, found = torch.get_num_threads(), []
    rtol, atol = (0.0, 0.0) if _C is not None else (1e-6, 1e-12)
    torch.use_deterministic_algorithms(True)
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            for loss in (functional.dice_ce_loss, functional.lovasz_softmax_loss):
                found.append(gradient(partial(loss, target=labels), x))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    for one, other in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


@failure("pytorch/pytorch#71550", "expanded inputs trip asserts")
def test_expanded_inputs() -> None:
    x, labels = sample(batch=1)
    wide, many = x.expand(3, -1, -1, -1), labels.expand(3, -1, -1)
    torch.testing.assert_close(
        functional.dice_ce_loss(wide, many), functional.dice_ce_loss(wide.clone(), many.clone())
    )


@failure("pytorch/pytorch#122757", "class weights left on another device")
def test_weights_move_with_the_module_and_other_devices_are_named() -> None:
    loss = segloss_fast.CrossEntropyLoss(class_weight=[1.0, 2.0, 3.0])
    x, labels = sample()
    expected = F.cross_entropy(x.double(), labels, torch.tensor([1.0, 2.0, 3.0]).double())
    assert loss.double()(x.double(), labels).item() == pytest.approx(expected.item(), rel=1e-12)
    with pytest.raises(ValueError, match=r"device.*meta|meta.*device"):
        functional.dice_loss(x, labels.to("meta"))


@failure("MIC-DKFZ/nnUNet#1354", "the Dice of a batch over ranks is gathered wrongly")
def test_batch_dice_needs_to_be_asked_for_over_ranks() -> None:
    """Values over ranks: tests of sync; what cannot be added is refused with the way out."""
    with pytest.raises(ValueError, match=r"needs batch=True"):
        segloss_fast.DiceLoss(sync=True)


@failure("pytorch/pytorch#15870", "batches of size zero")
@pytest.mark.parametrize("name", ["dice_ce_loss", "lovasz_softmax_loss", "hausdorff_dt_loss"])
def test_empty_batches(name: str) -> None:
    loss: Any = getattr(functional, name)
    x, labels = sample(batch=0)
    value, grad = gradient(lambda x: loss(x, labels), x)
    assert value == 0
    assert grad.shape == x.shape


@failure("Project-MONAI/MONAI#7729", "class weights disagree with include_background=False")
def test_weights_without_the_background() -> None:
    x, labels = sample()
    of_all = functional.dice_loss(x, labels, include_background=False, class_weight=[9.0, 1.0, 3.0])
    rows = functional.dice_loss(x, labels, reduction="none").mean(0)
    assert of_all.item() == pytest.approx(((rows[1] + 3 * rows[2]) / 4).item(), rel=1e-6)


@failure("pytorch/pytorch#153044", "autocast with torch.compile overflows")
def test_autocast_keeps_the_range() -> None:
    x, labels = sample(2, (64, 64, 20), batch=1)
    with torch.autocast("cpu", dtype=torch.float16):
        value = functional.dice_ce_loss(x.half() * 20, labels)
    torch.testing.assert_close(value, functional.dice_ce_loss((x.half() * 20).float(), labels))


@failure("Junelin2333/LanGuideMedSeg-MICCAI2023#13", "a softmax of one channel: always the loss 0")
def test_softmax_of_one_class_is_refused() -> None:
    x, labels = sample(1)
    for loss in (
        functional.dice_ce_loss,
        functional.cross_entropy_loss,
        functional.lovasz_softmax_loss,
    ):
        with pytest.raises(ValueError, match=r"softmax of one class|at least two classes"):
            loss(x, labels.clamp(0, 1))


@failure("bermanmaxim/LovaszSoftmax#26", "predictions that have collapsed to one half")
def test_lovasz_of_collapsed_predictions() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 1e-5 * torch.randn(1, 1, 2000, generator=generator, dtype=torch.float64)
    labels = (torch.rand(1, 2000, generator=generator) < 0.3).long()
    found = lovasz(x, labels, activation="sigmoid", impl="auto").loss.item()
    errors = (labels[0] - x[0, 0].sigmoid()).abs()
    order = errors.argsort(descending=True)
    t = labels[0][order].double()
    jaccard = 1 - (t.sum() - t.cumsum(0)) / (t.sum() + (1 - t).cumsum(0))
    steps = torch.diff(jaccard, prepend=jaccard.new_zeros(1))
    assert found == pytest.approx((errors[order] * steps).sum().item(), rel=1e-6)


@failure("Project-MONAI/MONAI#8094", "soft labels: the loss is not smallest at the target")
def test_soft_labels() -> None:
    target = torch.rand(2, 3, 8, 9).softmax(1)
    value = functional.dice_loss(target, target, activation="probabilities", soft_label=True)
    assert value.item() == pytest.approx(0, abs=1e-4)


@failure("fastai/fastai#3022", "input and target of different subclasses of tensors")
def test_mixed_subclasses() -> None:
    class Image(Tensor):
        pass

    class Mask(Tensor):
        pass

    x, labels = sample()
    found = functional.dice_ce_loss(x.as_subclass(Image), labels.as_subclass(Mask))
    torch.testing.assert_close(found.as_subclass(Tensor), functional.dice_ce_loss(x, labels))


@failure("pytorch/functorch#105", "gradients per sample fail under vmap")
def test_gradients_per_sample() -> None:
    x, labels = sample(batch=3)

    def loss(x: Tensor, labels: Tensor) -> Tensor:
        return functional.dice_ce_loss(x[None], labels[None])

    found = torch.func.vmap(torch.func.grad(loss))(x, labels)
    for i in range(3):
        _, grad = gradient(partial(loss, labels=labels[i]), x[i])
        torch.testing.assert_close(found[i], grad)


@failure("MIC-DKFZ/nnUNet#329", "weights of levels and classes as NumPy arrays")
def test_weights_of_numpy() -> None:
    x, labels = sample()
    found = functional.dice_loss(x, labels, class_weight=np.array([1.0, 2.0, 3.0]))
    torch.testing.assert_close(found, functional.dice_loss(x, labels, class_weight=[1.0, 2.0, 3.0]))
    levels = segloss_fast.DeepSupervisionLoss(segloss_fast.DiceLoss(), weights=np.array([0.7, 0.3]))
    assert levels([x, x[..., ::2]], labels).isfinite()


@failure("Project-MONAI/MONAI#7957", "an option set on the module has no effect")
def test_options_set_later_count() -> None:
    x, labels = sample()
    loss = segloss_fast.DiceCELoss()
    loss.lambda_ce = 0
    torch.testing.assert_close(loss(x, labels), functional.dice_loss(x, labels))


@failure("MouseLand/cellpose#1220", "a soft mask without a channel: every value is foreground")
def test_soft_masks_without_a_channel_are_values() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 8, 9, generator=generator)
    mask = torch.rand(2, 8, 9, generator=generator)
    found = functional.cross_entropy_loss(x, mask, activation="sigmoid")
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(x[:, 0], mask))
