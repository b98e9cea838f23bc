"""All losses on items of one class, nearly of one class, and nearly empty ones, in float32.

What is left there may be a small difference of large numbers. Values and gradients are held against
definitions in float64 that share no code with the package, and must not be further off than the
same definitions evaluated in float32 by plain PyTorch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tests import oracles
from tests.conformance import LOSSES, Keywords, LossRecord, combine
from tests.helpers import impls
from tests.oracles_lovasz import lovasz
from tests.records import LOVASZ_LOSSES, REGION_SUM_LOSSES
from tests.records_formulas import FORMULA_LOSSES
from tests.records_topk import CONFUSION_LOSSES
from tests.suite.tiers import begins_in

pytestmark = pytest.mark.of("each")  # held against one evaluation of the definition
EPSILON = torch.finfo(torch.float32).eps
# How much further off than plain PyTorch a result may be, and the rounding that anything may have:
# where plain PyTorch is lucky, and because sums over 512 voxels are float32.
FACTOR, ROUNDING = 2, 16 * EPSILON
# Rounding that grows, of values and gradients, and plain PyTorch's by chance more or less. Erosions
# take one half away from means close to it and stretch what is left, ten times. The gradient of log
# cosh d is tanh d times that of Dice, and d = 1 - Dice may be a hundredth.
GROWN = {
    "HausdorffERLoss": (160 * EPSILON, 4e-3),
    "LogCoshDiceLoss": (ROUNDING, 400 * EPSILON),
}
NOTHING = 1e-12  # a gradient this small is 0
SIZE = (4, 8, 16)
IGNORED = 255
Function = Callable[[Tensor], Tensor]


class InFloat32(TorchFunctionMode):
    """Definitions written in float64 compute in float32."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") is torch.float64:
            kwargs["dtype"] = torch.float32
        return (Tensor.float if func is Tensor.double else func)(*args, **kwargs)


def plain_activation(x: Tensor, name: str) -> Tensor:
    """Activate as PyTorch does."""
    return {"softmax": lambda: x.softmax(1), "sigmoid": x.sigmoid}.get(name, lambda: x)()


@dataclass(frozen=True)
class Scene:
    """One item: which class fills it, and which one a single voxel is of, if any."""

    classes: int
    activation: str
    fill: int
    odd: int | None = None

    def labels(self, size: tuple[int, ...] = SIZE) -> Tensor:
        labels = torch.full((1, *size), self.fill)
        if self.odd is not None:
            labels[0, size[0] // 2, size[1] // 2, 3] = self.odd
        return labels

    def logits(self, labels: Tensor, prediction: str) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn((1, self.classes, *labels.shape[1:]), generator=generator)
        if prediction == "any":
            return 2 * x
        own = torch.arange(self.classes).view(1, -1, 1, 1, 1) if self.classes > 1 else 1
        return x + (3 if prediction == "right" else -3) * (2.0 * (labels[:, None] == own) - 1)


SCENES = (
    Scene(1, "sigmoid", 0),
    Scene(1, "sigmoid", 1),
    Scene(1, "sigmoid", 0, 1),
    Scene(1, "sigmoid", 1, 0),
    *(Scene(3, "softmax", c) for c in range(3)),
    Scene(3, "softmax", 0, 2),
    Scene(3, "softmax", 2, 1),
    Scene(3, "sigmoid", 1),
    Scene(3, "softmax", IGNORED, 1),  # one voxel counts
)
PREDICTIONS = ("any", "right", "wrong")


def evaluate(
    function: Function, x: Tensor, mode: AbstractContextManager[Any] | None = None
) -> tuple[float, Tensor]:
    """Return a loss, and its gradient in float64."""
    x = x.detach().clone().requires_grad_()
    if mode is None:
        loss = function(x)
    else:
        with pytest.MonkeyPatch.context() as patch, mode:
            patch.setattr(oracles, "activate", plain_activation)
            loss = function(x)
            assert loss.dtype == torch.float32
    (grad,) = torch.autograd.grad(loss, x)
    return loss.item(), grad.double()


def check(
    x: Tensor, definition: Function, ours: Mapping[str, Function], name: str, note: object
) -> None:
    """Assert that none of ours is further off than the definition in float32."""
    of_value, of_grad = GROWN.get(name, (ROUNDING, ROUNDING))
    true_value, true_grad = evaluate(definition, x.double())
    plain_value, plain_grad = evaluate(definition, x, InFloat32())
    size = float(true_grad.norm())
    allowed = FACTOR * float((plain_grad - true_grad).norm()) + of_grad * size + NOTHING
    # Most are 1 less a ratio: they cannot be better than the rounding of that.
    rounding = of_value * max(abs(true_value), 0.1)
    for impl, function in ours.items():
        value, grad = evaluate(function, x)
        off = abs(value - true_value)
        assert off <= FACTOR * abs(plain_value - true_value) + rounding, (
            name,
            note,
            impl,
            value,
            off,
        )
        off = float((grad - true_grad).norm())
        assert off <= allowed, (name, note, impl, f"{off / (size or 1):.1e} of {size:.1e}")


def each_scene(size: tuple[int, ...] = SIZE) -> Iterator[tuple[Scene, str, Tensor, Tensor]]:
    for scene in SCENES:
        labels = scene.labels(size)
        for prediction in PREDICTIONS:
            yield scene, prediction, scene.logits(labels, prediction), labels


def keywords_of(record: LossRecord, own: Keywords, scene: Scene) -> dict[str, Any] | None:
    """Return the keywords of a scene; None where the loss does not take them."""
    common: dict[str, Any] = {"activation": scene.activation}
    if scene.fill == IGNORED:
        common["ignore_index"] = IGNORED
    found = combine(record, own, common)
    lists = any(isinstance(value, list) for value in own.values())  # one per class of three
    missing = scene.classes < record.fewest_classes or (lists and scene.classes != 3)
    return None if missing else found


def check_record(
    record: LossRecord, own: Keywords, scene: Scene, x: Tensor, labels: Tensor, note: object
) -> None:
    keywords = keywords_of(record, own, scene)
    if keywords is None:
        return

    def definition(x: Tensor) -> Tensor:
        return record.oracle(oracles.volume(x, labels, None, dict(keywords)))

    ours = {
        impl: functools.partial(record.function, target=labels, impl=impl, **keywords)
        for impl in impls(record.primitives[0])
    }
    check(x, definition, ours, record.name, (own, scene, note))


CASES = [
    pytest.param(
        record, own, id=f"{record.name}-{place}", marks=[] if place == 0 else [begins_in("all")]
    )
    for record in LOSSES
    for place, own in enumerate(record.keywords)
]


@begins_in("test")
@pytest.mark.parametrize(("record", "own"), CASES)
def test_losses(record: LossRecord, own: Keywords) -> None:
    for scene, prediction, x, labels in each_scene():
        check_record(record, own, scene, x, labels, prediction)


@begins_in("test")
@pytest.mark.parametrize("activation", LOVASZ_LOSSES)
def test_lovasz_losses(activation: str) -> None:
    function = LOVASZ_LOSSES[activation][1]
    for scene, prediction, x, labels in each_scene():
        if scene.activation != activation and not (activation == "hinge" and scene.classes == 1):
            continue
        options: dict[str, Any] = {"target": labels}
        if scene.fill == IGNORED:
            options["ignore_index"] = IGNORED
        ours = {
            impl: functools.partial(function, impl=impl, method="sort", **options)
            for impl in impls("lovasz")
        }
        definition = functools.partial(lovasz, activation, **options)
        check(x, definition, ours, activation, (scene, prediction))


SUMS = (*REGION_SUM_LOSSES, *FORMULA_LOSSES, *CONFUSION_LOSSES)


@begins_in("all")
@pytest.mark.parametrize("record", SUMS, ids=lambda record: record.name)
def test_large_volumes(record: LossRecord) -> None:
    """128^3 voxels of one class but for one."""
    classes = max(1, record.fewest_classes)
    scene = Scene(classes, "sigmoid" if classes == 1 else "softmax", fill=1, odd=0)
    labels = scene.labels((128, 128, 128))
    check_record(record, {}, scene, scene.logits(labels, "any"), labels, "large")
