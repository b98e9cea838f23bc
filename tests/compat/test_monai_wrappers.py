"""MONAI's losses that wrap others: deep supervision, masks, and smoothings."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import monai.losses
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segloss_fast.compat import monai as compat
from tests.compat.grid import Call, Draw, Drop, by_block, check_block

pytestmark = pytest.mark.peers


def dice(draw: Draw) -> dict[str, Any]:
    """Return options of the DiceLoss inside."""
    return draw.options(
        {
            "include_background": (True, False),
            "squared_pred": (True,),
            "batch": (True,),
            "reduction": ("mean", "sum"),
        }
    )


def levels(generator: random.Random) -> Call:
    """Return a random call of DeepSupervisionLoss."""
    draw = Draw(generator)
    options = draw.options(
        {
            "weight_mode": ("exp", "same", "two", "unknown"),
            "weights": (None, [0.5], [2.0, 0.0, 1.0, 0.25, 0.125]),
        }
    )
    inner = options["dice"] = {**dice(draw), draw.of("softmax", "sigmoid"): True}
    rank, batch, classes = draw.of(1, 2, 3), draw.of(1, 2), draw.of(1, 2, 4)
    size = [draw.of(3, 5, 8, 12) for _ in range(rank)]
    sizes = [size, *([max(1, n // 2**k) for n in size] for k in range(1, draw.of(1, 2, 4)))]
    if draw.of(True, False, False):
        sizes[-1] = [n + draw.of(0, 1) for n in size]  # not a multiple, or larger
    dtype = draw.of(torch.float32, torch.float32, torch.float64)
    inputs = [draw.normal(batch, classes, *size).to(dtype) for size in sizes]
    target = draw.labels(max(classes, 2), batch, 1, *size).float()
    if classes > 1 and draw.of(True, False):
        target = F.one_hot(target[:, 0].long(), classes).movedim(-1, 1).float()
    elif classes > 1:
        inner["to_onehot_y"] = True
        target = target.to(draw.of(torch.float32, torch.uint8, torch.float64))
    one = draw.of(True, False, False, False)
    return Call(options, inputs[0] if one else inputs, (target,))


def masked(generator: random.Random) -> Call:
    """Return a random call of MaskedLoss."""
    draw = Draw(generator)
    batch, classes, size = draw.of(1, 2, 3), draw.of(1, 2, 4), draw.size(draw.of(1, 2, 3))
    activation = draw.of("softmax", "sigmoid")
    options: dict[str, Any] = {"dice": {**dice(draw), activation: True}}
    x, target = draw.normal(batch, classes, *size), draw.soft(batch, classes, *size)
    if classes > 1 and draw.of(True, False):
        options["dice"]["to_onehot_y"] = True
        target = draw.labels(classes, batch, 1, *size)
    mask = draw.labels(2, draw.of(1, batch), 1, *size)
    mask = mask.to(draw.of(torch.float32, torch.bool, torch.uint8))
    wrong = draw.of(*[None] * 6, "none", "channels", "items", "rank", "size")
    if wrong == "channels":
        mask = torch.cat([mask, mask], 1)
    elif wrong == "items":
        mask = torch.cat([mask] * 4)
    elif wrong == "rank":
        mask = mask[..., None]
    elif wrong == "size":
        mask = mask[..., :1]
    return Call(options, x, (target,) if wrong == "none" else (target, mask), wrong)


def smoothed(generator: random.Random) -> Call:
    """Return a random call of MultiScaleLoss."""
    draw = Draw(generator)
    options = draw.options(
        {
            "scales": (None, [0], [1], [1, 0, 2], [0.3, 1.5]),
            "kernel": ("gaussian", "cauchy"),
            "reduction": ("none", "mean", "sum"),
        },
        given=0.8,
    )
    options["dice"] = {**dice(draw), draw.of("sigmoid", "softmax"): True}
    if draw.of(True, False):
        options["dice"]["reduction"] = "none"
    if draw.of(True, False, False, False):
        options["dice"] = None  # a loss that is no drop-in
    shape = draw.of(1, 2), draw.of(1, 3), *draw.size(draw.of(1, 2, 3))
    dtype = draw.of(torch.float32, torch.float64)
    target = draw.soft(*shape).to(draw.of(dtype, torch.float32))
    return Call(options, draw.normal(*shape).to(dtype), (target,))


def wrapped(package: Any, name: str) -> Callable[..., Any]:  # noqa: ANN401
    """Return the constructor of a wrapper of a DiceLoss."""

    def construct(dice: dict[str, Any] | None, **options: Any) -> Any:  # noqa: ANN401
        inner = torch.nn.MSELoss() if dice is None else package.DiceLoss(**dice)
        loss = getattr(package, name)(inner, **options)
        return (lambda x, target: loss(target, x)) if name == "MultiScaleLoss" else loss

    return construct


def exact_levels(call: Call) -> Tensor:
    """Return the value of DeepSupervisionLoss without what float32, which it takes, rounds."""
    loss = wrapped(monai.losses, "DeepSupervisionLoss")(**call.options)
    if isinstance(call.input, Tensor):
        found: Tensor = loss.loss(call.input, *call.others)
        return found
    values = torch.stack([loss.get_loss(x, *call.others) for x in call.input])
    return values @ torch.tensor(loss.get_weights(len(values)), dtype=values.dtype)


CALLS = {"DeepSupervisionLoss": levels, "MaskedLoss": masked, "MultiScaleLoss": smoothed}
DROPS = {
    name: Drop(wrapped(compat, name), wrapped(monai.losses, name), call, 50)
    for name, call in CALLS.items()
}
DROPS["DeepSupervisionLoss"] = replace(DROPS["DeepSupervisionLoss"], judge=exact_levels)


@by_block
@pytest.mark.parametrize("name", DROPS)
def test_equals_monai(name: str, block: int) -> None:
    check_block(DROPS[name], block)


def dices(package: Any) -> Any:  # noqa: ANN401
    """Return a DiceLoss of a package."""
    return package.DiceLoss(to_onehot_y=True, softmax=True)


X, LABELS = torch.linspace(-2, 2, 96).view(1, 3, 4, 8), torch.arange(32).view(1, 1, 4, 8) % 3
WRONG: dict[str, Callable[[Any], Any]] = {
    "no input": lambda p: p.DeepSupervisionLoss(dices(p))(None, LABELS),
    "a level without reduction": lambda p: p.DeepSupervisionLoss(p.DiceLoss(reduction="none"))(
        [X, X], X
    ),
    "a level of another rank": lambda p: p.DeepSupervisionLoss(dices(p))([X, X[0]], LABELS.float()),
    "no loss": lambda p: p.MaskedLoss(3),
    "no mask of one channel": lambda p: p.MaskedLoss(dices(p))(X, LABELS, X),
    "an unknown kernel": lambda p: p.MultiScaleLoss(dices(p), kernel="box"),
    "an unknown reduction": lambda p: p.MultiScaleLoss(dices(p), reduction="median"),
    "a negative scale": lambda p: p.MultiScaleLoss(p.DiceLoss(), scales=[-1])(X, X),
    "no scale": lambda p: p.MultiScaleLoss(p.DiceLoss(), scales=[])(X, X),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls_raise_as_monai(name: str) -> None:
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        WRONG[name](monai.losses)
    with pytest.raises(theirs.type, match=r"."):
        WRONG[name](compat)


@pytest.mark.parametrize("mode", ["exp", "two", "same", "unknown"])
@pytest.mark.parametrize("weights", [None, [], [3.0], [3.0, 2.0, 1.0]])
def test_level_weights(mode: str, weights: list[float] | None) -> None:
    both = [p.DeepSupervisionLoss(dices(p), mode, weights) for p in (compat, monai.losses)]
    for levels in range(8):
        assert both[0].get_weights(levels) == both[1].get_weights(levels)


def test_integer_and_boolean_targets_are_resized() -> None:
    xs = [X, X[..., ::2, ::3], X[..., :3, :5]]
    expected = monai.losses.DeepSupervisionLoss(dices(monai.losses))(xs, LABELS.float())
    inner = dices(compat)
    ours = compat.DeepSupervisionLoss(inner)
    for dtype in (torch.int64, torch.int16, torch.uint8):
        torch.testing.assert_close(ours(xs, LABELS.to(dtype)), expected)
    hot = F.one_hot(LABELS[:, 0], 3).movedim(-1, 1)
    inner.to_onehot_y = False
    torch.testing.assert_close(ours(xs, hot.bool()), expected)


def test_levels_are_compared_in_float32() -> None:
    both = [p.DeepSupervisionLoss(dices(p)) for p in (compat, monai.losses)]
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        levels = [X.to(dtype), X[..., ::2, ::2].to(dtype)]
        ours, theirs = (loss(levels, LABELS.float()) for loss in both)
        assert ours.dtype == theirs.dtype == torch.float32
        torch.testing.assert_close(ours, theirs)


def test_changed_attributes_count() -> None:
    levels = [X, X[..., ::2, ::2]]
    soft = torch.rand(1, 3, 4, 8)
    both = [p.DeepSupervisionLoss(p.DiceLoss(softmax=True)) for p in (compat, monai.losses)]
    changes: dict[str, Any] = {"weight_mode": "same", "interp_mode": "area", "weights": [1, 0.1]}
    for name, value in changes.items():
        for loss in both:
            setattr(loss, name, value)
        torch.testing.assert_close(both[0](levels, soft), both[1](levels, soft))
    scaled = [p.MultiScaleLoss(p.DiceLoss(softmax=True)) for p in (compat, monai.losses)]
    changes = {"scales": [0, 1], "reduction": "sum"}
    for name, value in changes.items():
        for loss in scaled:
            setattr(loss, name, value)
        torch.testing.assert_close(scaled[0](soft, X), scaled[1](soft, X))


def test_overridden_methods_are_called() -> None:
    class First(compat.DeepSupervisionLoss):
        def get_weights(self, levels: int = 1) -> list[float]:
            return [1.0, *[0.0] * (levels - 1)]

    loss = First(dices(compat))
    torch.testing.assert_close(loss([X, X + 1], LABELS), dices(compat)(X, LABELS))


def test_masked_loss_constructs_a_class() -> None:
    mask = torch.ones(1, 1, 4, 8)
    mask[..., 3:] = 0
    both = [p.MaskedLoss(p.TverskyLoss, True, alpha=0.3) for p in (compat, monai.losses)]
    torch.testing.assert_close(both[0](X, X > 0, mask), both[1](X, X > 0, mask))
    assert both[0].loss.alpha == 0.3


def test_wrappers_take_losses_of_others() -> None:
    soft = torch.rand(1, 3, 4, 8)
    inner = torch.nn.MSELoss()
    calls: list[Callable[[Any], Tensor]] = [
        lambda p: p.DeepSupervisionLoss(inner)([X, X[..., ::2]], soft),
        lambda p: p.MaskedLoss(inner)(X, soft, soft[:, :1]),
        lambda p: p.MultiScaleLoss(inner, scales=[0, 0.2, 1], kernel="cauchy")(soft, X),
    ]
    for call in calls:
        torch.testing.assert_close(call(compat), call(monai.losses))


@pytest.mark.torch_compile
def test_compiles_to_one_graph() -> None:
    loss = compat.DeepSupervisionLoss(dices(compat))
    levels = [X, X[..., ::2, ::2]]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(levels, LABELS.float()), loss(levels, LABELS.float()))


def test_smooths_four_sides() -> None:
    x, y = torch.rand(1, 2, 5, 4, 3), torch.rand(1, 2, 5, 4, 3)
    ours = compat.MultiScaleLoss(torch.nn.MSELoss(), scales=[1])
    theirs = monai.losses.MultiScaleLoss(torch.nn.MSELoss(), scales=[1])
    centre = 1 / math.sqrt(2 * math.pi)  # all that a side of one voxel leaves of the kernel
    torch.testing.assert_close(ours(x[..., None], y[..., None]), centre**2 * theirs(x, y))


def test_published_values() -> None:
    """Those that MONAI's own tests expect."""
    row = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    target = row[None, None]
    first = torch.stack([torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), row])[None]
    second = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]])
    levels = [first, second, torch.tensor([1.0, 0.0, 1.0, 0.0]).view(1, 2, 2, 1)]
    ce, focal, dice = compat.DiceCELoss, compat.DiceFocalLoss, compat.DiceLoss
    rows: list[tuple[Any, dict[str, Any], Any, float]] = [
        (ce, {}, first, 0.606557),
        (ce, {}, levels, 1.78144),
        (ce, {"weight_mode": "same"}, levels, 3.5529),
        (ce, {"weight_mode": "two"}, levels, 2.07973),
        (ce, {"weights": [0.1, 0.2, 0.3]}, levels, 0.76924),
        (dice, {}, first, 0.166666),
        (dice, {}, levels, 0.666665),
        (focal, {}, first, 0.32124),
        (focal, {}, levels, 1.06452),
    ]
    for inner, options, given, expected in rows:
        loss = compat.DeepSupervisionLoss(inner(to_onehot_y=True), **options)
        assert float(loss(given, target)) == pytest.approx(expected, rel=1e-4)
    x = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    y = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    for scales, kernel, dims, expected in (
        (None, "gaussian", 2, 0.307576),
        ([0, 1], "gaussian", 2, 0.463116),
        ([0, 1, 2], "cauchy", 3, 0.715228),
    ):
        shape = (1,) * dims + (2, 2)
        scaled = compat.MultiScaleLoss(dice(sigmoid=True), scales, kernel)
        assert float(scaled(y.view(shape), x.view(shape))) == pytest.approx(expected, rel=1e-5)
