"""What component_sums promises on every machine: sums over masks, those of region_sums, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor

from segloss_fast import ComponentSums, component_sums, connected_components, region_sums
from segloss_fast.ops.component_sums import TERMS
from tests.machines import Machine, on
from tests.ops.component_sums_cases import solve

ACTIVATIONS = ("softmax", "sigmoid", "probabilities")


def problem(
    activation: str, dtype: torch.dtype = torch.float64, classes: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """Return an input, labels, and bins of two items."""
    generator = torch.Generator().manual_seed(classes)
    x = 3 * torch.randn(2, classes, 4, 5, 6, generator=generator, dtype=torch.float64)
    x = x.sigmoid() if activation == "probabilities" else x
    labels = torch.randint(0, max(classes, 2), (2, 4, 5, 6), generator=generator)
    bins = torch.randint(0, 5, (2, classes, 4, 5, 6), generator=generator, dtype=torch.int32)
    return x.to(dtype), labels, bins


def exact(
    x: Tensor, t: np.ndarray, bins: Tensor, count: int, activation: str, w: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the rows by their definition, a mask for each bin."""
    values = x.double().numpy()
    if activation == "softmax":
        p, q = special.softmax(values, 1), 1 - special.softmax(values, 1)
        log_p, log_q = special.log_softmax(values, 1), np.log(q)
    elif activation == "sigmoid":
        p = special.expit(values)
        log_p, log_q = special.log_expit(values), special.log_expit(-values)
    else:
        with np.errstate(divide="ignore"):
            logs = np.log(values), np.log1p(-values)
        p, (log_p, log_q) = values, (np.maximum(log, -100) for log in logs)
    maps = {
        **{"tp": p * t, "pred": p, "target": t, "weight": np.ones_like(p), "pred_sq": p * p},
        **{"fp": p * (1 - t), "fn": t * (1 - p)},
        **{"nll": -t * log_p, "nll_neg": -(1 - t) * log_q},
    }
    where = np.broadcast_to(bins.numpy(), values.shape)
    w = np.broadcast_to(w, values.shape)
    return {
        name: np.stack(
            [np.where(where == k, w * each, 0).sum((2, 3, 4)) for k in range(count + 1)], -1
        )
        for name, each in maps.items()
    }


def compare(found: ComponentSums, expected: dict[str, np.ndarray], tolerance: float) -> None:
    for name in TERMS:
        row = getattr(found, name).detach()
        assert row.dtype == torch.float64
        np.testing.assert_allclose(row.numpy(), expected[name], tolerance, tolerance)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_each_bin_is_a_mask(
    machine: Machine, activation: str, shared: bool, dtype: torch.dtype
) -> None:
    x, labels, bins = problem(activation, dtype)
    bins = bins[:, :1] if shared else bins
    t = (labels[:, None] == torch.arange(3).view(1, 3, 1, 1, 1)).double().numpy()
    weight = torch.rand(2, 1, 4, 5, 6, generator=torch.Generator().manual_seed(0)) - 0.2
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    for w in (None, weight):
        factor = np.ones(1) if w is None else w.double().numpy()
        expected = exact(x, t, bins, 6, activation, factor)
        found = solve(
            machine, x, labels, bins, count=6, activation=activation, terms=TERMS, voxel_weight=w
        )
        assert found.rows.shape == (len(TERMS), 2, 3, 7)
        compare(found, expected, tolerance)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_all_bins_together_are_region_sums(machine: Machine, activation: str) -> None:
    x, labels, bins = problem(activation)
    labels[0, :2] = 7
    options: dict[str, Any] = {"activation": activation, "terms": TERMS, "ignore_index": 7}
    whole = region_sums(x, labels, **options)
    parts = solve(machine, x, labels, bins, count=4, **options)
    torch.testing.assert_close(parts.rows.sum(3), whole.rows, rtol=1e-12, atol=1e-12)


def test_ignored_voxels_are_in_no_row(machine: Machine) -> None:
    x, labels, bins = problem("softmax")
    labels[0, 1] = 255
    kept = (labels != 255)[:, None].double()
    t = (labels[:, None] == torch.arange(3).view(1, 3, 1, 1, 1)).double().numpy()
    expected = exact(x, t, bins, 4, "softmax", kept.numpy())
    x[0, :, 1] = torch.nan
    found = solve(machine, x, labels, bins, count=4, terms=TERMS, ignore_index=255)
    compare(found, expected, 1e-12)


@on(sets=True)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_no_gradient_comes_to_ignored_voxels(
    machine: Machine, bad: float, classes: int, activation: str
) -> None:
    """Not even 0 times what is no number."""
    x, labels, bins = problem(activation, torch.float32, classes)
    labels[:, 1, 2:] = 255
    x, labels, bins = (machine.place(tensor) for tensor in (x, labels, bins))
    options: dict[str, Any] = {"count": 4, "activation": activation, "terms": TERMS}
    leaf = x.requires_grad_()
    rows = component_sums(leaf, labels, bins, ignore_index=255, impl=machine.asked, **options).rows
    (grad,) = torch.autograd.grad(rows, leaf, torch.full_like(rows, bad))
    by_voxel, ignored = grad.movedim(1, -1), labels == 255
    assert not by_voxel[ignored].any()
    assert not by_voxel[~ignored].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_overlapping_classes(machine: Machine, dtype: torch.dtype) -> None:
    x, _, bins = problem("sigmoid")
    t = (torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.4).to(dtype)
    found = solve(machine, x, t, bins, count=4, activation="sigmoid", terms=TERMS)
    expected = exact(x, t.double().numpy(), bins, 4, "sigmoid", np.ones(1))
    compare(found, expected, 1e-12)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
@pytest.mark.parametrize("channel", [False, True])
def test_one_class(machine: Machine, dtype: torch.dtype, channel: bool) -> None:
    x, labels, bins = problem("sigmoid", classes=1)
    given = labels.to(dtype)[:, None] if channel else labels.to(dtype)
    found = solve(machine, x, given, bins, count=4, activation="sigmoid", terms=TERMS)
    expected = exact(x, labels[:, None].double().numpy(), bins, 4, "sigmoid", np.ones(1))
    compare(found, expected, 1e-12)


@on("reference", "native")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shared", [False, True])
def test_gradcheck(machine: Machine, activation: str, shared: bool) -> None:
    x, labels, bins = problem(activation)
    x, labels = x[..., :2].contiguous().requires_grad_(), labels[..., :2]
    bins = bins[:, :1, ..., :2] if shared else bins[..., :2]
    w = torch.rand(2, 1, 4, 5, 2, dtype=torch.float64)
    tensors = (x, w.requires_grad_()) if machine.impl == "reference" else (x,)

    def rows(x: Tensor, w: Tensor = w) -> Tensor:
        return component_sums(
            *(x, labels, bins),
            count=4,
            activation=activation,
            terms=TERMS,
            voxel_weight=w,
            impl=machine.impl,
        ).rows

    assert torch.autograd.gradcheck(rows, tensors)


def test_bins_in_another_order_are_rows_in_that_order(machine: Machine) -> None:
    x, labels, bins = problem("softmax")
    order = torch.tensor([0, 3, 1, 4, 2])
    first = solve(machine, x, labels, bins, count=4).rows
    moved = solve(machine, x, labels, order[bins.long()].int(), count=4).rows
    assert torch.equal(moved[..., order], first)


def test_many_bins(machine: Machine) -> None:
    """A voxel each, as of an untrained network's noise."""
    many = machine.pick(100_000, shim=3000)
    x = torch.randn(1, 2, many)
    labels = torch.randint(0, 2, (1, many))
    bins = torch.arange(many, dtype=torch.int32).flip(0).view(1, 1, -1)
    found = solve(machine, x, labels, bins, count=many - 1)
    # The exponential of a GPU's special function unit is within 2^-22.
    wanted = x.softmax(1)[0].double()
    torch.testing.assert_close(found.pred[0].flip(1), wanted, rtol=1e-6, atol=1e-7)
    again = solve(machine, x, labels, bins, count=many - 1)
    assert torch.equal(again.rows, found.rows)


def test_components_of_a_mask(machine: Machine) -> None:
    labels = torch.zeros(1, 6, 7, dtype=torch.int64)
    labels[0, 1:3, 1:4], labels[0, 5, 6] = 1, 1
    found = connected_components(labels[:, None])
    sums = solve(machine, torch.zeros(1, 2, 6, 7), labels, found.labels, count=2)
    assert sums.target[0, 1].tolist() == [0, 6, 1]
    assert sums.pred[0, 1].tolist() == [(42 - 7) / 2, 3, 0.5]
