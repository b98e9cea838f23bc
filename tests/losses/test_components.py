"""Losses over components: the authors' numbers, identities, given maps, edge rules."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

import segloss_fast as sf
from tests.helpers import IMPLS, assert_close, gradient, relative_l2
from tests.losses.test_skeleton_recall import authors_fixture

by_impl = pytest.mark.parametrize("impl", IMPLS)
CLASSES: list[Any] = [
    sf.BlobLoss,
    sf.ComponentDiceCELoss,
    sf.BidirectionalComponentLoss,
    sf.ComponentTverskyLoss,
]
WITH_CELLS = CLASSES[1:3]
by_class = pytest.mark.parametrize("module", CLASSES, ids=lambda module: module.__name__)
PLAIN: dict[str, Any] = {"lambda_global": 0.0, "smooth_nr": 0.0, "smooth_dr": 0.0}
ALONE: dict[str, Any] = {"lambda_global": 0.0}

# Loss and L1 norm of its gradient; the authors' class of the last two has weights in float32.
FIXTURE: list[tuple[str, Callable[..., Any], float, float, float]] = [
    ("CC-DiceCE", lambda **k: sf.ComponentDiceCELoss(**PLAIN, **k), 1.7314021105, 1.2058329314, 0),
    ("blob", lambda **k: sf.BlobLoss(**PLAIN, **k), 1.7266910142, 1.1345706707, 0),
    (
        "BiCC",
        lambda **k: sf.BidirectionalComponentLoss(**PLAIN, **k),
        *(1.6091147490, 1.1869271271, 0),
    ),
    (
        "BiCC, plain Dice",
        lambda **k: sf.BidirectionalComponentLoss(empty="dice", **PLAIN, **k),
        *(1.6560451995, 1.1535137855, 0),
    ),
    (
        "BiCC, spacing",
        lambda **k: sf.BidirectionalComponentLoss(spacing=(3, 1, 1), **PLAIN, **k),
        *(1.6129712825, 1.1944201321, 0),
    ),
    (
        "Kofler, Dice of probabilities",
        lambda **k: sf.BlobLoss(lambda_ce=0.0, **ALONE, **k),
        *(0.8750419879, 0.1476268990, 0),
    ),
    (
        "adaptive Tversky",
        lambda **k: sf.ComponentTverskyLoss(**ALONE, **k),
        *(0.5790415107, 0.3493178, 5e-8),
    ),
    (
        "adaptive Tversky, more background",
        lambda **k: sf.ComponentTverskyLoss(background_weight=0.1, **ALONE, **k),
        *(0.8837145949, 0.1465109, 5e-8),
    ),
]


@by_impl
@pytest.mark.parametrize(("name", "build", "value", "norm", "digits"), FIXTURE)
def test_the_authors_numbers(
    impl: str, name: str, build: Callable[..., Any], value: float, norm: float, digits: float
) -> None:
    x, labels, _ = authors_fixture()
    loss = build(impl=impl)
    for given, tolerance in ((x, 1e-9), (x.float(), 1e-6)):
        found, grad = gradient(lambda x: loss(x, labels), given)
        assert float(found) == pytest.approx(value, abs=tolerance), name
        assert float(grad.abs().sum()) == pytest.approx(norm, abs=max(tolerance, digits)), name


@by_impl
def test_the_authors_loop_with_scipys_cells(impl: str) -> None:
    """SciPy decides two ties otherwise; the authors' loop computes in float32."""
    x, labels, _ = authors_fixture()
    cells = []
    for mask in labels.numpy():
        found, _ = ndimage.label(mask, np.ones((3, 3, 3)))
        places = ndimage.distance_transform_edt(mask == 0, return_indices=True)[1]
        cells.append(found[tuple(places)])
    given = torch.from_numpy(np.stack(cells))[:, None].int()
    own = sf.component_cells(labels, 2)
    assert int((own != given).sum()) == 2
    loss = sf.ComponentDiceCELoss(impl=impl, **PLAIN)
    value, grad = gradient(lambda x: loss(x, labels, cells=given), x)
    assert float(value) == pytest.approx(1.7247912310, abs=1e-9)
    assert float(grad.abs().sum()) == pytest.approx(1.2007550053, abs=1e-9)


def one_component(classes: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Return logits and a target of one component, and what they are called with."""
    generator = torch.Generator().manual_seed(classes)
    x = torch.randn(2, classes, 5, 6, 7, generator=generator, dtype=torch.float64)
    labels = torch.zeros(2, 5, 6, 7, dtype=torch.int64)
    labels[:, 1:4, 2:5, 3:6] = 1
    return x, labels, {"activation": "sigmoid" if classes == 1 else "softmax"}


def same(one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Compare two losses and their gradients."""
    (value, grad), (true_value, true_grad) = gradient(one, x), gradient(other, x)
    assert_close(value, true_value, 1e-12)
    assert relative_l2(grad, true_grad) < 1e-12


@by_impl
@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("module", CLASSES[:2], ids=lambda module: module.__name__)
def test_one_component_is_the_whole(impl: str, module: Any, classes: int) -> None:  # noqa: ANN401
    x, labels, options = one_component(classes)
    loss = module(impl=impl, **ALONE, **options)
    whole = sf.DiceCELoss(include_background=classes == 1, **options)
    same(lambda x: loss(x, labels), lambda x: whole(x, labels), x)


@by_impl
def test_no_predicted_side_is_cc_dice_ce(impl: str) -> None:
    x, labels, _ = authors_fixture()
    loss = sf.BidirectionalComponentLoss(alpha=0.0, impl=impl)
    other = sf.ComponentDiceCELoss(impl=impl)
    same(lambda x: loss(x, labels), lambda x: other(x, labels), x)


@by_impl
def test_no_adaption_is_tversky(impl: str) -> None:
    x, labels, _ = authors_fixture()
    for batch in (False, True):
        loss = sf.ComponentTverskyLoss(
            gamma=0.0, background_weight=1.0, batch=batch, impl=impl, **ALONE
        )
        other = sf.TverskyLoss(alpha=0.3, beta=0.7, include_background=False, batch=batch)
        same(lambda x, f=loss: f(x, labels), lambda x, f=other: f(x, labels), x)  # type: ignore[misc]


@by_class
@by_impl
def test_the_whole_is_dice_with_cross_entropy(module: Any, impl: str) -> None:  # noqa: ANN401
    x, labels, _ = authors_fixture()
    labels[0, 0, 0, 0] = 255
    options: dict[str, Any] = {"impl": impl, "ignore_index": 255, "lambda_ce": 0.7}
    own, both = module(lambda_global=0.0, **options), module(lambda_global=0.3, **options)
    whole = sf.DiceCELoss(include_background=False, **options)
    same(
        lambda x: both(x, labels),
        lambda x: own(x, labels) + 0.3 * whole(x, labels),
        x,
    )


@by_class
@by_impl
@pytest.mark.parametrize("classes", [2, 3])
def test_maps_of_the_data_loader(module: Any, impl: str, classes: int) -> None:  # noqa: ANN401
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, classes, 5, 9, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 12, (2, 5, 9, 8), generator=generator)
    labels = torch.where(labels < classes, labels, 0)
    labels[0, 0] = 255
    default = "faces" if module is sf.ComponentTverskyLoss else "full"
    loss = module(ignore_index=255, impl=impl)
    options: dict[str, Any] = {"classes": classes, "ignore_index": 255, "impl": impl}
    maps = {"components": sf.component_labels(labels, connectivity=default, **options)}
    assert maps["components"].shape == (2, 1 if classes == 2 else 3, 5, 9, 8)
    if module in WITH_CELLS:
        maps["cells"] = sf.component_cells(labels, **options)
    for name, given in maps.items():
        one: dict[str, Any] = {name: given}
        same(functools.partial(loss, target=labels, **one), lambda x: loss(x, labels), x)
    sample = sf.component_labels(labels[0], connectivity=default, batched=False, **options)
    assert torch.equal(sample, maps["components"][0])


@by_class
@by_impl
def test_one_map_for_all_classes_has_room_for_more(module: Any, impl: str) -> None:  # noqa: ANN401
    """Numbers that no voxel has are no components, and more than there is room for are NaN."""
    x, labels, _ = authors_fixture()
    found = sf.component_labels(labels, 2)
    if module is sf.ComponentTverskyLoss:
        assert torch.equal(found, sf.component_labels(labels, 2, connectivity="faces"))
    loss = module(impl=impl)
    value = loss(x, labels)
    renamed = torch.where(found > 1, found + 40, found)
    assert_close(loss(x, labels, components=renamed.int()), value, 1e-14)
    assert_close(module(impl=impl, max_components=50)(x, labels), value, 1e-14)
    few = module(impl=impl, max_components=2)(x, labels)
    assert few.isnan()


@by_class
@by_impl
def test_overlapping_classes(module: Any, impl: str) -> None:  # noqa: ANN401
    """Each channel by itself is a loss of one class, of which the mean is taken."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, 3, 9, 10, generator=generator, dtype=torch.float64)
    target = (torch.rand(2, 3, 9, 10, generator=generator) < 0.3).double()
    options: dict[str, Any] = {"activation": "sigmoid", "impl": impl, **ALONE}
    loss = module(include_background=True, **options)
    one = module(**options)
    same(
        lambda x: loss(x, target),
        lambda x: torch.stack([one(x[:, c, None], target[:, c, None]) for c in range(3)]).mean(),
        x,
    )


@by_impl
def test_what_is_in_no_component(impl: str) -> None:
    x, labels, _ = authors_fixture()
    labels[1] = 0
    cells = sf.ComponentDiceCELoss(impl=impl, reduction="none", **ALONE)
    whole = sf.DiceCELoss(include_background=False, batch=False)
    rows = cells(x, labels)
    assert rows.shape == (2, 2)
    assert_close(rows[1, 1], whole(x[1:], labels[1:]), 1e-12)  # one cell, Dice near 1
    blob = sf.BlobLoss(impl=impl, **ALONE)
    value, grad = gradient(lambda x: blob(x, labels), x)  # left out
    assert_close(value, blob(x[:1], labels[:1]), 1e-14)
    assert not grad[1].any()
    for module in (sf.BlobLoss, sf.ComponentTverskyLoss):
        value, grad = gradient(lambda x, m=module: m(impl=impl, **ALONE)(x, 0 * labels), x)  # type: ignore[misc]
        assert float(value) == 0
        assert not grad.any()


@by_impl
def test_ignored_voxels_split_components(impl: str) -> None:
    x = torch.zeros(1, 2, 5, dtype=torch.float64)
    labels = torch.tensor([[1, 1, 255, 1, 0]])
    assert sf.component_labels(labels, 2, ignore_index=255).tolist() == [[[1, 1, 0, 2, 0]]]
    assert sf.component_cells(labels, 2, ignore_index=255).tolist() == [[[1, 1, 1, 2, 2]]]
    loss = sf.ComponentDiceCELoss(impl=impl, ignore_index=255, lambda_ce=0.0, **PLAIN)
    # The cells have sums of p, t and p t of 1, 2, 1 and of 1, 1, 1/2.
    assert float(loss(x, labels)) == pytest.approx((1 - 2 / 3 + 1 - 1 / 2) / 2)
