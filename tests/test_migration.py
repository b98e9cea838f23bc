"""docs/migration.md: every row of its tables, run with the libraries that it compares with."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import monai.losses
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

import segloss_fast
from tests import pages
from tests.conftest import ROOT
from tests.helpers import relative_l2
from tests.peers import smp_losses

pytestmark = pytest.mark.peers

PAGE = ROOT / "docs" / "migration.md"
TOLERANCE = 2e-5  # smp's logarithm of a sigmoid costs it a digit
SMP = ("dice", "focal", "jaccard", "lovasz", "mcc", "soft_bce", "soft_ce", "tversky")
LABELS, REGIONS, IGNORED = 4, 3, 255


def tensors(size: tuple[int, ...], channel: bool) -> dict[str, Any]:
    """Return what the page calls x, y, m and so on; labels have a channel in MONAI's examples."""
    torch.manual_seed(0)
    batch, classes = 2, 4
    x = torch.randn(batch, classes, *size)
    y = torch.randint(0, classes, (batch, *size))
    m = (torch.rand(x.shape) < 0.3).float()
    distances = 1 - torch.eye(classes)
    distances[1, 2] = distances[2, 1] = 0.5
    return {
        "x": x,
        "p": x.softmax(1),
        "y": y[:, None] if channel else y,
        "v": torch.where(torch.rand(y.shape) < 0.2, IGNORED, y),
        "m": m,
        "n": torch.where(torch.rand(m.shape) < 0.2, IGNORED, m),
        "x1": x[:, :1],
        "p1": x[:, :1].sigmoid(),
        "m1": m[:, :1],
        "w": torch.tensor([0.5, 0.8, 1.2, 1.5]),
        "D": distances,
        "B": batch,
        "C": classes,
        "g": 0.75,
    }


def levels() -> dict[str, Any]:
    """Return the outputs of three levels, and the labels of the largest."""
    xs = [torch.randn(2, 4, side, side, side) for side in (8, 4, 2)]
    return {"xs": xs, "ys": torch.randint(0, 4, (2, 1, 8, 8, 8))}


def modules(*sources: object) -> dict[str, Any]:
    """Return the losses that modules define."""
    return {
        name: value
        for source in sources
        for name, value in vars(source).items()
        if inspect.isclass(value) and issubclass(value, nn.Module)
    }


def solve(cell: str, losses: dict[str, Any], data: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the value, and the gradient in the logits, of what stands in a cell of a table."""
    leaf = data["x"].clone().requires_grad_()
    own = {**data, "x": leaf, "p": leaf.softmax(1), "x1": leaf[:, :1], "p1": leaf[:, :1].sigmoid()}
    if "xs" in data:
        own["xs"] = [leaf, *data["xs"][1:]]
    found = eval(cell.strip("`"), {**losses, **own})
    value = found(leaf, own["y"]) if isinstance(found, nn.Module) else found
    (grad,) = torch.autograd.grad(value, leaf)
    return value.detach(), grad


def check(theirs: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor], here: str) -> None:
    assert abs(ours[0] - theirs[0]) <= TOLERANCE * abs(theirs[0])
    exact = TOLERANCE if "Lovasz" not in here else 1e-3  # whose eager gradients lose digits
    assert relative_l2(ours[1], theirs[1]) < exact


def rows(heading: str) -> pytest.MarkDecorator:
    """Return the mark that runs a test for each row of the page's table."""
    found = pages.tables(PAGE, heading)
    assert len(found) > 10
    return pytest.mark.parametrize(("theirs", "here"), found, ids=[row[0] for row in found])


@rows("MONAI")
def test_monai(theirs: str, here: str) -> None:
    deep = "(xs, " in theirs
    data = tensors((8, 8, 8) if deep else (7, 8, 9), channel=True)
    if deep:
        data = {**data, **levels()}
    expected = solve(theirs, modules(monai.losses), data)
    check(expected, solve(here, modules(segloss_fast), data), here)


@rows("segmentation-models-pytorch")
def test_segmentation_models(theirs: str, here: str) -> None:
    data = tensors((16, 17), channel=False)
    losses = modules(*(smp_losses(name) for name in SMP))
    check(solve(theirs, losses, data), solve(here, modules(segloss_fast), data), here)


class NnUNet:
    """What nnU-Net 2.8.1's trainer computes: cross-entropy minus Dice, for labels or regions."""

    def __init__(self, regions: bool, batch: bool, ignore: int | None = None) -> None:
        self.regions, self.batch, self.ignore = regions, batch, ignore

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        counted = None
        if self.ignore is not None:
            counted = ~target[:, -1:] if self.regions else target != self.ignore
            target = target[:, :-1] if self.regions else target * counted
        if self.regions:
            p, t = x.sigmoid(), target.float()
            ce = binary_cross_entropy_with_logits(x, t, reduction="none")
            ce = ce.mean() if counted is None else (ce * counted).sum() / counted.sum()
        else:
            labels = target.long()[:, 0]
            p, t = x.softmax(1), one_hot(labels, x.shape[1]).movedim(-1, 1).float()
            hidden = labels if counted is None else labels.masked_fill(~counted[:, 0], -100)
            ce = cross_entropy(x, hidden)
        weight = 1 if counted is None else counted
        axes = (0, 2, 3, 4) if self.batch else (2, 3, 4)
        tp, both = (p * t * weight).sum(axes), ((p + t) * weight).sum(axes)
        dice = (2 * tp + 1e-5) / (both + 1e-5)
        return ce - dice[..., 0 if self.regions else 1 :].mean()


def trainer(regions: bool, batch: bool, ignore: int | None, scales: int = 0) -> SimpleNamespace:
    """Return what the page's function reads of nnU-Net's trainer."""
    return SimpleNamespace(
        label_manager=SimpleNamespace(has_regions=regions, ignore_label=ignore),
        configuration_manager=SimpleNamespace(batch_dice=batch),
        is_ddp=False,
        enable_deep_supervision=scales > 0,
        _get_deep_supervision_scales=lambda: [[1.0] * 3] * scales,
    )


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the page's blocks of code leave behind."""
    names = pages.tensors()
    pages.run(PAGE, names)
    return names


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("ignore", [None, LABELS])
def test_nnunet_labels(page: dict[str, Any], batch: bool, ignore: int | None) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, LABELS, 7, 8, 9)
    y = torch.randint(0, LABELS + (ignore is not None), (2, 1, 7, 8, 9)).to(torch.int16)
    loss = page["build_loss"](trainer(False, batch, ignore))
    torch.testing.assert_close(loss(x, y), NnUNet(False, batch, ignore)(x, y) + 1)


def test_nnunet_regions(page: dict[str, Any]) -> None:
    torch.manual_seed(0)
    x, target = torch.randn(2, REGIONS, 7, 8, 9), torch.rand(2, REGIONS, 7, 8, 9) < 0.3
    loss = page["build_loss"](trainer(True, True, None))
    torch.testing.assert_close(loss(x, target), NnUNet(True, True)(x, target) + 1)


def test_nnunet_regions_with_an_ignore_label(page: dict[str, Any]) -> None:
    theirs = NnUNet(True, True, ignore=-1)(page["region_logits"], page["target"])
    torch.testing.assert_close(page["value_of_regions"], theirs + 1)


def test_nnunet_levels(page: dict[str, Any]) -> None:
    torch.manual_seed(0)
    xs = [torch.randn(2, LABELS, side, side, side) for side in (16, 8, 4)]
    ys = [torch.randint(0, LABELS, (2, 1, *x.shape[2:])).to(torch.int16) for x in xs]
    theirs = [NnUNet(False, True)(x, y) for x, y in zip(xs, ys, strict=True)]
    loss = page["build_loss"](trainer(False, True, None, scales=3))
    torch.testing.assert_close(loss(xs, ys), (2 * theirs[0] + theirs[1]) / 3 + 1)


def test_nnunet_where_all_is_ignored() -> None:
    y = torch.full((2, 1, 4, 4, 4), LABELS)
    loss = segloss_fast.DiceCELoss(include_background=False, ignore_index=LABELS)
    assert loss(torch.randn(2, LABELS, 4, 4, 4), y) == 0


def test_absent_classes_of_segmentation_models() -> None:
    data = tensors((16, 17), channel=False)
    x, y = data["x"], data["y"] % 3
    theirs = smp_losses("dice").DiceLoss("multiclass")(x, y)
    ours = segloss_fast.DiceLoss(batch=True, absent="zero")(x, y)
    torch.testing.assert_close(theirs, ours, rtol=TOLERANCE, atol=0)
    assert segloss_fast.DiceLoss(batch=True)(x, y) > ours  # the absent class counts in full


def test_class_weights_of_monai_scale_its_loss() -> None:
    data = tensors((7, 8, 9), channel=True)
    theirs = monai.losses.DiceLoss(softmax=True, to_onehot_y=True, weight=2 * data["w"])
    ours = segloss_fast.DiceLoss(class_weight=2 * data["w"])
    torch.testing.assert_close(theirs(data["x"], data["y"]), 2 * ours(data["x"], data["y"]))


@pytest.mark.parametrize(("count", "factor"), [(2, 1.5), (3, 1.75)])
def test_level_weights_of_monai_scale_its_loss(count: int, factor: float) -> None:
    torch.manual_seed(0)
    xs, ys = levels()["xs"][:count], levels()["ys"]
    dice_ce = monai.losses.DiceCELoss(softmax=True, to_onehot_y=True)
    theirs = monai.losses.DeepSupervisionLoss(dice_ce)(xs, ys.float())
    ours = segloss_fast.DeepSupervisionLoss(segloss_fast.DiceCELoss())(xs, ys)
    torch.testing.assert_close(theirs, factor * ours)


def ball() -> tuple[Tensor, Tensor]:
    """Return logits and a target in one-hot form, of a ball in a cube."""
    torch.manual_seed(0)
    places = torch.arange(32) - 15.5
    x, y, z = torch.meshgrid(places, places, places, indexing="ij")
    inside = x**2 + y**2 + z**2 < 100
    return torch.randn(1, 2, 32, 32, 32), torch.stack([~inside, inside])[None].long()


def test_hausdorff_losses_start_high() -> None:
    x, target = ball()
    start = segloss_fast.DiceCELoss()(x, target)
    assert segloss_fast.HausdorffDTLoss(include_background=False)(x, target) > 10 * start
    assert segloss_fast.LogHausdorffDTLoss(include_background=False)(x, target) < 3 * start


def test_integer_targets_in_one_hot_form() -> None:
    x, target = ball()
    theirs = monai.losses.HausdorffDTLoss(softmax=True)
    ours = segloss_fast.HausdorffDTLoss(include_background=False)
    torch.testing.assert_close(ours(x, target), theirs(x, target.float()))
    assert theirs(x, target) < 0.95 * ours(x, target)


def test_ignored_pixels_of_segmentation_models() -> None:
    data = tensors((16, 17), channel=False)
    theirs = smp_losses("soft_ce").SoftCrossEntropyLoss(smooth_factor=0.0, ignore_index=IGNORED)
    ours = segloss_fast.CrossEntropyLoss(ignore_index=IGNORED)(data["x"], data["v"])
    counted = (data["v"] != IGNORED).float().mean()
    torch.testing.assert_close(theirs(data["x"], data["v"]), ours * counted)


class Model(nn.Module):
    """A network that holds its loss, as some do."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, 2, 1)
        self.loss = loss


@pytest.mark.parametrize(
    "theirs",
    [
        lambda w: monai.losses.DiceLoss(softmax=True, weight=w),
        lambda w: monai.losses.DiceCELoss(softmax=True, weight=w),
        lambda w: nn.CrossEntropyLoss(weight=w),
        lambda w: nn.BCEWithLogitsLoss(pos_weight=w),
        lambda w: smp_losses("soft_bce").SoftBCEWithLogitsLoss(weight=w),
    ],
)
def test_old_checkpoints(theirs: Any) -> None:  # noqa: ANN401
    old = Model(theirs(torch.ones(2))).state_dict()
    assert [name for name in old if name.startswith("loss.")]
    loss = segloss_fast.DiceCELoss(class_weight=[1.0, 3.0])
    new = Model(loss)
    with pytest.warns(UserWarning, match=r"the checkpoint's loss\..* are not loaded"):
        new.load_state_dict(dict(old))
    assert torch.equal(new.layer.weight, old["layer.weight"])
    assert loss.class_weight.tolist() == [1, 3]  # type: ignore[operator] # a module's attribute
    assert sorted(new.state_dict()) == ["layer.bias", "layer.weight"]
