"""Losses over components as modules: errors, copies, sums of losses, levels, graphs, noise."""

from __future__ import annotations

import copy
import pickle
import types
from typing import Any

import pytest
import torch
from torch import Tensor

import segloss_fast as sf
from segloss_fast.losses._counts import count_of
from segloss_fast.losses._keywords import Component
from tests.helpers import assert_close, gradient, relative_l2
from tests.losses.test_components import by_class
from tests.losses.test_skeleton_recall import authors_fixture


def test_what_is_wrong_is_said() -> None:
    x, labels, _ = authors_fixture()
    found = sf.component_labels(labels, 2)
    loss = sf.ComponentDiceCELoss()
    faces = sf.ComponentDiceCELoss(connectivity="faces")
    blob = sf.BlobLoss()
    for call, error, message in (
        (lambda: loss(x, labels, components=found.long()), TypeError, "components must have one"),
        (lambda: blob(x, labels, components=found[:1]), ValueError, r"components must have shape"),
        (lambda: loss(x, labels, cells=found[..., :3]), ValueError, r"cells must have shape"),
        (
            lambda: loss(x, labels, cells=found, components=found),
            *(ValueError, "give components or cells, which are made of them, not both"),
        ),
        (
            lambda: faces(x, labels, components=found),
            *(ValueError, "connectivity goes with components that the loss finds itself"),
        ),
        (lambda: loss(x, torch.rand(x.shape)), ValueError, "target must hold 0 and 1 per class"),
        (lambda: loss(x, labels + 1), ValueError, r"target must hold class indices in \[0, 2\)"),
        (
            lambda: sf.BlobLoss(connectivity=6)(x[..., 0], labels[..., 0]),
            *(ValueError, "connectivity must be, of 2 spatial axes, one of"),
        ),
        (
            lambda: sf.ComponentDiceCELoss(spacing=(1, 2))(x, labels),
            *(ValueError, "spacing must"),
        ),
        (lambda: blob(x, labels, cells=found), TypeError, "unexpected keyword argument 'cells'"),
        (lambda: sf.component_labels(labels, 2, connectivity="x"), ValueError, "connectivity must"),
        (lambda: sf.component_labels(labels + 5, 2), ValueError, r"indices in \[0, 2\)"),
    ):
        with pytest.raises(error, match=message):
            call()


@by_class
def test_module_copies_and_adds(module: Any) -> None:  # noqa: ANN401
    x, labels, _ = authors_fixture()
    found = sf.component_labels(labels, 2)
    loss = module(smooth_nr=0.1)
    value = loss(x, labels)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(x, labels), value)
    both = loss + 2 * sf.DiceLoss()
    assert_close(both(x, labels), value + 2 * sf.DiceLoss()(x, labels), 1e-14)
    if module is not sf.ComponentTverskyLoss:
        assert_close(both(x, labels, components=found), both(x, labels), 1e-14)


@by_class
def test_deep_supervision_takes_maps_of_each_level(module: Any) -> None:  # noqa: ANN401
    x, labels, _ = authors_fixture()
    inputs = [x, x[..., ::2, ::2]]
    targets = [labels, labels[..., ::2, ::2]]
    loss = module()
    deep = sf.DeepSupervisionLoss(loss, weights=[0.6, 0.4])
    kind = "faces" if module is sf.ComponentTverskyLoss else "full"
    maps = [sf.component_labels(t, 2, connectivity=kind) for t in targets]
    value = deep(inputs, targets)
    assert_close(deep(inputs, targets, components=maps), value, 1e-14)
    assert_close(deep(inputs, targets, components=[maps[0], None]), value, 1e-14)


@by_class
def test_count_is_what_a_loader_knows(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401
    """The map is then not looked at; BiCC looks at what is predicted."""
    x, labels, _ = authors_fixture()
    kind = "faces" if module is sf.ComponentTverskyLoss else "full"
    found = sf.component_labels(labels, 2, connectivity=kind)
    loss = module()
    value = loss(x, labels, components=found)
    looks: list[tuple[int, ...]] = []
    whole = Tensor.max

    def seen(map: Tensor) -> Tensor:
        looks.append(tuple(map.shape))
        return whole(map)

    monkeypatch.setattr(Tensor, "max", seen)
    assert_close(loss(x, labels, components=found, count=3), value, 1e-14)
    assert_close(loss(x, labels, components=found, count=9), value, 1e-14)
    assert found.shape not in looks
    counts = torch.tensor([3, 1])
    assert_close(loss(x, labels, components=found, count=counts), value, 1e-14)
    assert looks.count((2,)) >= 1
    assert loss(x, labels, components=found, count=2).isnan()
    few = module(max_components=2)
    assert few(x, labels, components=found, count=9).isnan()
    deep = sf.DeepSupervisionLoss(loss, weights=[1.0, 0.0])
    inputs, targets = [x, x[..., ::2]], [labels, labels[..., ::2]]
    given: dict[str, Any] = {"components": [found, None], "count": [counts, None]}
    assert_close(deep(inputs, targets, **given), value, 1e-14)


@by_class
def test_count_says_what_is_wrong(module: Any) -> None:  # noqa: ANN401
    x, labels, _ = authors_fixture()
    found = sf.component_labels(labels, 2)
    for given, error, message in (
        ({"count": 3}, ValueError, "count is of components or cells that are given"),
        ({"components": found, "count": -1}, ValueError, "count must be at least 0, got -1"),
        ({"components": found, "count": 2.0}, TypeError, "count must be an int, a tensor or None"),
        (
            {"components": found, "count": torch.ones(2)},
            ValueError,
            "whole numbers on the CPU, got",
        ),
    ):
        with pytest.raises(error, match=message):
            module()(x, labels, **given)


def test_a_captured_graph_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    bins: Any = types.SimpleNamespace(is_cuda=True)
    with pytest.raises(RuntimeError, match=r"give max_components, or count for a map that is"):
        count_of(bins, None, Component())
    assert count_of(bins, 7, Component()) == 7
    assert count_of(bins, None, Component(max_components=5)) == 5


@pytest.mark.torch_compile
@by_class
def test_compiles_with_room_for_few(module: Any) -> None:  # noqa: ANN401
    x, labels, _ = authors_fixture()
    loss = module(max_components=4)
    value, grad = gradient(lambda x: loss(x, labels), x)
    compiled: Any = torch.compile(loss, fullgraph=True, backend="aot_eager")
    other, other_grad = gradient(lambda x: compiled(x, labels), x)
    torch._dynamo.reset()
    assert_close(other, value, 1e-12)
    assert relative_l2(other_grad, grad) < 1e-12


@by_class
def test_the_noise_of_an_untrained_network(module: Any) -> None:  # noqa: ANN401
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(1, 40, 40, 40, generator=generator) < 0.1).long()
    x = torch.randn(1, 2, 40, 40, 40, generator=generator)
    assert int(sf.component_labels(labels, 2, connectivity="faces").max()) > 3000
    value, grad = gradient(lambda x: module(connectivity="faces")(x, labels), x)
    assert value.isfinite()
    assert grad.isfinite().all()
    assert torch.equal(module(connectivity="faces")(x, labels), value)
