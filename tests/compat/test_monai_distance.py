"""MONAI's losses over distances: Hausdorff and boundary."""

from __future__ import annotations

import random
from typing import Any

import monai.losses
import pytest
import torch
from torch import Tensor

from segloss_fast.compat import monai as compat
from segloss_fast.ops.distance_transform import distance_transform
from tests.compat.grid import Call, Draw, Drop, by_block, check_block
from tests.compat.monai_calls import HEAD, volumes

pytestmark = pytest.mark.peers

NAMES = ("HausdorffDTLoss", "LogHausdorffDTLoss", "BoundaryLoss")


def hausdorff(generator: random.Random) -> Call:
    """Return a random call of HausdorffDTLoss."""
    draw = Draw(generator)
    options = draw.options({**HEAD, "alpha": (2.0, 1.0, 0.5, 3, 0)})
    x, target = volumes(draw, options, any_values=True, with_gradient=True, ranks=(2, 3))
    if target.dtype == torch.bool:  # with which MONAI cannot subtract
        target = target.to(draw.of(torch.uint8, torch.int16))
    return Call(options, x, (target,))


def boundary(generator: random.Random) -> Call:
    """Return a random call of BoundaryLoss."""
    draw = Draw(generator)
    options = draw.options(HEAD)
    x, target = volumes(draw, options, any_values=True, with_gradient=True, ranks=(2, 3))
    if options.get("to_onehot_y") and draw.of(True, False):
        target = target[:, 0]
    return Call(options, x, (target,))


DROPS = {
    "HausdorffDTLoss": Drop(compat.HausdorffDTLoss, monai.losses.HausdorffDTLoss, hausdorff, 200),
    "LogHausdorffDTLoss": Drop(
        compat.LogHausdorffDTLoss, monai.losses.LogHausdorffDTLoss, hausdorff, 50
    ),
    "BoundaryLoss": Drop(compat.BoundaryLoss, monai.losses.BoundaryLoss, boundary, 50),
}


@by_block
@pytest.mark.parametrize("name", DROPS)
def test_equals_monai(name: str, block: int) -> None:
    check_block(DROPS[name], block)


def both(name: str, *args: Any, **options: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """Return the drop-in and MONAI's loss, constructed alike."""
    return getattr(compat, name)(*args, **options), getattr(monai.losses, name)(*args, **options)


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    """Return a prediction, and a target of the same shape in which all distances differ."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator).round()


WRONG_OPTIONS: list[dict[str, object]] = [
    {"reduction": "median"},
    {"sigmoid": True, "softmax": True},
    {"softmax": True, "other_act": torch.tanh},
    {"other_act": "tanh"},
    {"alfa": 1.0},
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", WRONG_OPTIONS)
def test_wrong_options(name: str, options: dict[str, object]) -> None:
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        getattr(monai.losses, name)(**options)
    with pytest.raises(theirs.type):
        getattr(compat, name)(**options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("input", "target", "options"),
    [
        ([2, 3, 5], [2, 3, 5], {}),
        ([2, 3, 5, 4, 4, 2], [2, 3, 5, 4, 4, 2], {}),
        ([2, 3, 5, 4], [2, 3, 5, 3], {}),
        ([2, 3, 5, 4], [2, 1, 5, 4], {}),
        ([2, 3, 5, 4], [2, 3, 5, 4], {"to_onehot_y": True}),
        ([2, 3, 5, 4], [2, 1, 4, 4], {"to_onehot_y": True}),
        ([2, 3, 5, 4], [3, 1, 5, 4], {"to_onehot_y": True}),
    ],
)
def test_wrong_shapes(
    name: str, input: list[int], target: list[int], options: dict[str, object]
) -> None:
    ours, theirs = both(name, **options)
    with pytest.raises(Exception) as expected:  # noqa: PT011
        theirs(torch.rand(input), torch.zeros(target))
    with pytest.raises(expected.type, match=r"\["):
        ours(torch.rand(input), torch.zeros(target))


@pytest.mark.parametrize("name", NAMES)
def test_attributes_take_effect(name: str) -> None:
    ours, theirs = both(name)
    x, t = pair(2, 3, 6, 5)
    for attribute, value in (
        *(("include_background", True), ("batch", True), ("softmax", True), ("reduction", "sum")),
        *((("alpha", 1.5),) if name != "BoundaryLoss" else ()),
        *(("reduction", "none"), ("to_onehot_y", True)),
    ):
        for loss in (ours, theirs):
            setattr(loss, attribute, value)
        t = t.argmax(1, keepdim=True) if attribute == "to_onehot_y" else t
        torch.testing.assert_close(ours(x, t), theirs(x, t))


def test_integer_targets_truncate_distances() -> None:
    x, t = pair(1, 2, 9, 9)
    t = (torch.arange(162).view_as(t) == 123).float()  # one voxel, most of whose distances are no
    ours, theirs = both("HausdorffDTLoss")  # whole numbers
    assert abs(float(ours(x, t) - ours(x, t.long()))) > 0.01
    for target in (t, t.long()):
        torch.testing.assert_close(ours(x, target), theirs(x, target))


@pytest.mark.parametrize("first", [True, False])
def test_negative_exponents(first: bool) -> None:
    x, t = pair(2, 3, 6, 5)
    x = (20 * (x - 0.5)).requires_grad_()  # so that each class is predicted somewhere
    values = [
        loss(x, t) for loss in both("HausdorffDTLoss", -1.0, include_background=first, softmax=True)
    ]
    assert values[1].isfinite()
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, x) for value in values))


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_no_items(name: str, batch: bool) -> None:
    ours, theirs = both(name, batch=batch)
    x = torch.zeros(0, 2, 4, 4)
    torch.testing.assert_close(ours(x, x), theirs(x, x), equal_nan=True)


def test_fields_are_monais() -> None:
    _, t = pair(2, 3, 6, 5)
    t[0, 0], t[1, 1] = 0, 1
    ours, theirs = both("BoundaryLoss")
    torch.testing.assert_close(ours.compute_distance_map(t), theirs.compute_distance_map(t))
    with pytest.raises(ValueError, match=r"target must be images"):
        ours.compute_distance_map(t[0])
    ours, theirs = both("HausdorffDTLoss")
    for dtype in (torch.float32, torch.int64):
        one = t[:, :1].to(dtype)
        torch.testing.assert_close(ours.distance_field(one), theirs.distance_field(one))


SPACING = (2.0, 0.5)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_subclasses_have_their_own_distances(name: str, labels: bool, first: bool) -> None:
    def field(self: object, mask: Tensor) -> Tensor:
        return distance_transform(mask > 0.5, SPACING, side="both").nan_to_num(posinf=0)

    method = "compute_distance_map" if name == "BoundaryLoss" else "distance_field"
    options = {"to_onehot_y": labels, "softmax": True, "include_background": first}
    ours, theirs = (
        type("Own", (getattr(package, name),), {method: field})(**options)
        for package in (compat, monai.losses)
    )
    x, t = pair(2, 3, 6, 5)
    t = t.argmax(1, keepdim=True) if labels else t
    torch.testing.assert_close(ours(x, t), theirs(x, t))
    assert not torch.allclose(ours(x, t), getattr(compat, name)(**options)(x, t))


@pytest.mark.torch_compile
@pytest.mark.parametrize("name", NAMES)
def test_compiles_whole(name: str) -> None:
    x, t = pair(2, 3, 6, 5)
    t = t.argmax(1, keepdim=True)
    loss = getattr(compat, name)(to_onehot_y=True, softmax=True)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    values = [each(leaf, t) for each, leaf in zip((compiled, loss), leaves, strict=True)]
    grads = [torch.autograd.grad(*each) for each in zip(values, leaves, strict=True)]
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(grads[0], grads[1])
