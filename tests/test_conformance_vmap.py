"""Every loss under torch.func.vmap, where nobody may look at values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import segloss_fast
from segloss_fast.losses._module import FieldLoss
from tests.conformance import LOSSES, problem
from tests.records import LOVASZ_LOSSES
from tests.suite.tiers import few

pytestmark = pytest.mark.filterwarnings(
    "ignore:There is a performance drop because we have not yet implemented the batching rule"
)

Loss = Callable[..., Tensor]
FUNCTIONS: dict[str, Loss] = {record.function.__name__: record.function for record in LOSSES}
FUNCTIONS |= {function.__name__: function for _, function in LOVASZ_LOSSES.values()}
ONE_CLASS = {record.function.__name__ for record in LOSSES if record.fewest_classes == 1}
ONE_CLASS |= {"lovasz_sigmoid_loss", "lovasz_hinge_loss"}
HARD = {record.function.__name__ for record in LOSSES if record.hard}
WITH_FIELD = {r.function.__name__ for r in LOSSES if issubclass(r.module, FieldLoss)}
SIZE = (4, 5)
by_name = pytest.mark.parametrize("name", list(FUNCTIONS))
by_impl = pytest.mark.parametrize("impl", ["auto", "reference"])


def call(name: str, activation: str, impl: str, **keywords: Any) -> Loss:  # noqa: ANN401
    """Return a loss of one sample, which has no batch axis."""
    if "lovasz" not in name:
        keywords["activation"] = activation

    def loss(x: Tensor, target: Tensor, *rest: Tensor, **more: Tensor) -> Tensor:
        others = {key: tensor[None] for key, tensor in more.items()}
        return FUNCTIONS[name](
            x[None], target[None], *(r[None] for r in rest), impl=impl, **keywords, **others
        )

    return loss


def check(loss: Loss, tensors: tuple[Tensor, ...], batched: tuple[bool, ...]) -> Tensor:
    """Compare with one sample at a time; of the tensors not batched the first sample serves all."""
    pairs = list(zip(tensors, batched, strict=True))
    wanted = torch.stack([loss(*(t[i if b else 0] for t, b in pairs)) for i in range(2)])
    axes = tuple(0 if b else None for b in batched)
    found: Tensor = torch.func.vmap(loss, in_dims=axes)(*(t if b else t[0] for t, b in pairs))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
    assert found.isfinite().all()
    return wanted


@by_name
@by_impl
@pytest.mark.parametrize("activation", few(["softmax", "sigmoid", "probabilities"], test=2))
def test_samples_are_those_without_it(name: str, impl: str, activation: str) -> None:
    for kind in ("ignore", "dense"):
        case = problem(kind, SIZE, hard=name in HARD)
        x = case.input.sigmoid() if activation == "probabilities" else case.input
        if "lovasz" in name and kind == "dense":
            continue  # which takes masks, not values
        loss = call(name, activation, impl, ignore_index=case.ignore_index)
        for batched in ((True, True), (True, False), (False, True)):
            check(loss, (x, case.target), batched)


@pytest.mark.parametrize("name", [r.function.__name__ for r in LOSSES])
@by_impl
def test_weights_and_fields_alone(name: str, impl: str) -> None:
    case = problem("ignore", SIZE)
    weight = torch.rand((2, 1, *SIZE), generator=torch.Generator().manual_seed(0))
    loss = call(name, "softmax", impl, ignore_index=255)
    check(loss, (case.input, case.target, weight), (False, False, True))
    if name in WITH_FIELD:
        check(
            lambda x, target, field: loss(x, target, target_field=field),
            (case.input, case.target, weight.expand(2, 3, *SIZE)),
            (False, False, True),
        )


@by_name
@by_impl
def test_what_is_bad_makes_its_own_sample_nan(name: str, impl: str) -> None:
    labels = problem("labels", SIZE)
    cases = [(labels.input, labels.target, 3.0)]
    if name in ONE_CLASS:
        one = problem("labels", SIZE, classes=1)
        cases += [(one.input, one.target, 2.0), (one.input, one.target.double(), 1.5)]
    for x, target, bad in cases:
        activation = "softmax" if x.shape[1] > 1 else "sigmoid"
        loss = call(name, activation, impl, ignore_index=255)
        target[0, 0, 0] = 255
        wanted = check(loss, (x, target), (True, True))
        target[1, 1, 2] = bad
        for tensors, axes in (((x, target), (0, 0)), ((x[0], target), (None, 0))):
            found = torch.func.vmap(loss, in_dims=axes)(*tensors)
            torch.testing.assert_close(found[0], wanted[0])
            assert found[1].isnan(), (x.shape, target.dtype)


def test_debug_mode_cannot_look_either() -> None:
    case = problem("labels", SIZE)
    case.target[1, 1, 2] = 3
    loss = call("generalized_wasserstein_dice_loss", "softmax", "auto")
    with segloss_fast.debug(True):
        found = torch.func.vmap(loss)(case.input, case.target)
    assert found.isnan().tolist() == [False, True]
