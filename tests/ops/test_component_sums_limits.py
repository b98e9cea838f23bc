"""component_sums beside its definition: layouts, dtypes, instruction sets, bad bins, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast import component_sums
from segloss_fast._check import FLOATING, INTEGER
from segloss_fast.ops.component_sums import TERMS
from tests.helpers import gradient, relative_l2
from tests.machines import Machine, machines_of, on
from tests.ops.component_sums_cases import solve, solve_both
from tests.ops.distance_transform_cases import LAYOUTS, lay_out
from tests.ops.test_component_sums import ACTIVATIONS, problem


@pytest.mark.parametrize("bad", [-1, 5, 2**31 - 1])
def test_bins_out_of_range_make_the_rows_of_their_class_nan(machine: Machine, bad: int) -> None:
    x, labels, bins = problem("softmax")
    bins[1, 2, 0, 0, 0] = bad
    rows = solve(machine, x, labels, bins, count=4).rows
    assert rows[:, 1, 2].isnan().all()
    rows[:, 1, 2] = 0
    assert rows.isfinite().all()


@pytest.mark.parametrize("shape", [(0, 2, 4), (2, 2, 0)])
def test_empty(machine: Machine, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    labels = torch.zeros(shape[0], shape[2], dtype=torch.int64)
    bins = torch.zeros(shape[0], 1, shape[2], dtype=torch.int32)
    rows = solve(machine, x, labels, bins, count=3).rows
    assert rows.shape == (3, shape[0], 2, 4)
    assert not rows.any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_layouts_and_gradients(
    machine: Machine, activation: str, layout: str, dtype: torch.dtype
) -> None:
    """All tensors as they lie, against the reference in float64, in blocks and chunks."""
    generator = torch.Generator().manual_seed(5)
    space = machine.pick((5, 31, 37), shim=(2, 3, 37))
    shape = (2, 3, *space)
    x = 2 * torch.randn(shape, generator=generator)
    x = lay_out((x.sigmoid() if activation == "probabilities" else x).to(dtype), layout)
    labels = torch.randint(0, 3, (2, *space), generator=generator)
    labels[0, 1, 2] = 255
    bins = torch.randint(0, 3, shape, generator=generator, dtype=torch.int32)
    bins = bins.cumsum(4, dtype=torch.int32) // 8  # runs of several lengths
    weight = torch.randn(shape, generator=generator)
    other = "contiguous" if layout == "expanded" else layout
    labels, bins = lay_out(labels, other), lay_out(bins, layout)
    options: dict[str, Any] = {"count": 12, "activation": activation, "terms": TERMS}
    options |= {"ignore_index": 255}
    for w, own in ((None, bins), (lay_out(weight, layout), bins[:, :1])):
        found, grad = solve_both(machine, x, labels, own, voxel_weight=w, **options)
        wide = None if w is None else w.double()
        reference = machines_of("component_sums")[0]
        truth, true_grad = solve_both(
            reference, x.double(), labels, own, voxel_weight=wide, **options
        )
        assert grad.dtype == dtype
        if machine.impl != "reference":
            assert grad.stride() == torch.empty_like(machine.place(x)).stride()
        bound = {torch.float64: 1e-13, torch.float32: 3e-6}.get(dtype, torch.finfo(dtype).eps)
        assert relative_l2(found.cpu(), truth) < min(bound, 3e-6)
        assert relative_l2(grad.cpu(), true_grad) < bound


@pytest.mark.parametrize("dtype", [torch.bool, *INTEGER, *FLOATING], ids=str)
def test_targets_of_any_dtype(machine: Machine, dtype: torch.dtype) -> None:
    x, labels, bins = problem("softmax", torch.float32)
    labels = labels.clamp_max(1)
    one_hot = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)
    options: dict[str, Any] = {"count": 4, "terms": TERMS}
    wanted = solve(machine, x, labels, bins, **options).rows
    assert torch.equal(solve(machine, x, labels.to(dtype), bins, **options).rows, wanted)
    assert torch.equal(solve(machine, x, one_hot.to(dtype), bins, **options).rows, wanted)


@pytest.mark.parametrize("terms", [[term] for term in TERMS] + [["nll", "tp"]], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_rows_do_not_depend_on_the_other_terms(
    machine: Machine, activation: str, terms: list[str]
) -> None:
    x, labels, bins = problem(activation)
    options: dict[str, Any] = {"count": 4, "activation": activation, "read": terms}
    found, grad = solve_both(machine, x, labels, bins, terms=terms, **options)
    wanted, true_grad = solve_both(machine, x, labels, bins, terms=TERMS, **options)
    assert torch.equal(found, wanted)
    torch.testing.assert_close(grad, true_grad, rtol=1e-12, atol=1e-12)


@on("native", sets=True)
@pytest.mark.parametrize("length", [1, 2, 6, 7, 15, 16, 17, 33, 512, 513])
def test_instruction_sets(machine: Machine, length: int) -> None:
    """Runs of every length beside a vector's and a block's."""
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(1, 2, 5003, generator=generator)
    labels = torch.randint(0, 2, (1, 5003), generator=generator)
    bins = (torch.arange(5003, dtype=torch.int32) // length % 600).view(1, 1, -1)
    rows: list[tuple[Tensor, Tensor]] = []
    for impl, given in ((machine.impl, x), ("reference", x.double())):
        options: dict[str, Any] = {"count": 600, "terms": TERMS, "impl": impl}
        rows.append(
            gradient(lambda x, o=options: component_sums(x, labels, bins, **o).rows, given)  # type: ignore[misc]
        )
    assert relative_l2(rows[0][0], rows[1][0]) < 5e-7
    assert relative_l2(rows[0][1], rows[1][1]) < 5e-7


X, LABELS = torch.zeros(1, 2, 3, 4), torch.zeros(1, 3, 4, dtype=torch.int64)
BINS = torch.zeros(1, 1, 3, 4, dtype=torch.int32)


# On a device labels are not looked at: tests/gpu.
@on("reference", "native", "shim")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"bins": BINS.long()}, TypeError, "bins must have one of the dtypes int32, got .*int64"),
        ({"bins": BINS[..., :2]}, ValueError, r"bins must have shape \[1, 1, 3, 4\] or \[1, 2, 3"),
        ({"count": -1}, ValueError, "count must be at least 0, got -1"),
        ({"count": 2.0}, TypeError, "count must be an int, got float"),
        ({"terms": "tp"}, TypeError, "terms must be a sequence of names, got str"),
        ({"terms": []}, ValueError, "terms must name at least one of tp, pred"),
        ({"terms": ["tp", "tn"]}, ValueError, r"terms\[1\] must be one of .* got 'tn'"),
        ({"terms": ["tp", "tp"]}, ValueError, "terms must name each row once"),
        ({"activation": "relu"}, ValueError, "activation must be one of .* got 'relu'"),
        ({"target": LABELS + 2}, ValueError, r"class indices in \[0, 2\) .* first of which is 2"),
        ({"target": X + 0.5}, ValueError, "target must hold 0 and 1 per class, .* is 0.5"),
        ({"target": LABELS[..., :3]}, ValueError, "target must be class indices of shape"),
        ({"voxel_weight": X[..., :3]}, ValueError, "voxel_weight must have shape"),
        ({"impl": "triton"}, RuntimeError, "component_sums has no triton kernels"),
    ],
)
def test_errors(
    machine: Machine, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {"input": X, "target": LABELS, "bins": BINS, "count": 1}
    arguments |= {"impl": machine.asked, **change}
    with pytest.raises(error, match=message):
        component_sums(**arguments)


def test_the_record() -> None:
    sums = component_sums(X, LABELS, BINS, count=0, terms=["weight"])
    assert sums.weight.tolist() == [[[12], [12]]]
    with pytest.raises(AttributeError, match="the row 'tp' was not asked for"):
        _ = sums.tp
    with pytest.raises(AttributeError, match="no attribute 'tn'"):
        _ = sums.tn
