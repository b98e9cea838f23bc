"""Triton's kernel of a softmax against class indices: its terms, its products, what it is given."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from segloss_fast.ops._triton import tiling
from segloss_fast.ops._triton.plan import Plan
from segloss_fast.ops.region_sums import reference, triton_labels, triton_launch
from tests.helpers import relative_max
from tests.ops.region_sums_cases import (
    EPSILON,
    LAYOUTS,
    OVERLAP,
    Case,
    by_definition,
    case_of,
    lay_out,
)

TERMS = ("nll", "fn", "tp", "pred", "focal", "target_sq", "fp", "target", "nll_pow")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
COST = (*OVERLAP, "nll")


def launched(case: Case) -> tuple[Tensor, list[float]]:
    """Return rows and invalid labels, by the kernel that is tested here."""
    empty = torch.empty(0, dtype=torch.float64)
    rows = empty.new_empty((len(case.options.terms), *case.x.shape[:2]))
    first, _ = triton_launch.forward_launches(
        case.x, case.target, None, case.options, rows, empty.new_empty(2)
    )
    assert first.kernel is triton_labels.partial_sums
    found, invalid = triton_launch.forward(case.x, case.target, None, case.options)
    return found, invalid.tolist()


def compare(case: Case, roundings: float = 10) -> None:
    """Assert that all rows are those of the definition of the same, rounded, input."""
    rows, invalid = launched(case)
    assert invalid == [0, 0]
    wanted = by_definition(replace(case, x=case.x.double()))
    for name, row, true_row in zip(case.options.terms, rows, wanted, strict=True):
        assert relative_max(row, true_row) < roundings * EPSILON, name


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs with several whole tiles, and blocks of several groups."""
    monkeypatch.setattr(tiling, "BLOCK_TILES", 2)
    monkeypatch.setattr(tiling, "MAX_PROGRAMS", 2)
    monkeypatch.setattr(tiling, "MIN_PROGRAMS", 2)


@pytest.mark.parametrize(
    ("classes", "ignored"),
    [(2, None), (3, 1), (4, 255), (4, None), (5, None), (14, 1), (16, 255), (17, None), (105, 1)],
)
def test_every_term(classes: int, ignored: int | None) -> None:
    """In vectors, with what is left of a tile, and where a number of voxels allows no vectors."""
    dtype = DTYPES[(classes + (ignored or 0)) % 3]
    for voxels, gamma in (((1300 if classes <= 4 else 600,), 2.0), ((5, 7, 13), 1.7)):
        case = case_of((2, classes, *voxels), "labels", TERMS, gamma=gamma).to(dtype)
        case.target[:, ..., ::5] = 1 if ignored is None else ignored
        case = case.having(ignore_index=ignored)
        if ignored is not None:  # what lies in a voxel that does not count is nothing
            case.x[(case.target[:, None] == ignored).expand_as(case.x)] = torch.nan
        compare(case)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    case = case_of((2, 5, 4, 6, 60), terms=COST).to(torch.float32)
    x, target = (lay_out(part, layout) for part in (case.x, case.target[:, None]))
    compare(replace(case, x=x, target=target[:, 0]))


@pytest.mark.parametrize(
    ("classes", "dtype"), [(4, torch.bfloat16), (14, torch.float32), (105, torch.float32)]
)
def test_products_stay_in_range(
    monkeypatch: pytest.MonkeyPatch, classes: int, dtype: torch.dtype
) -> None:
    """All voxels of one class, and no class more probable: the largest factors."""
    monkeypatch.setattr(tiling, "BLOCK_TILES", 16)
    voxels = 1024 * 40 if classes == 4 else 64 * 80
    x = torch.zeros(1, classes, voxels, dtype=dtype)
    target = torch.ones(1, voxels, dtype=torch.uint8)
    case = Case(x, target, None, case_of((1, classes, 1), terms=("nll", "target")).options)
    rows, _ = launched(case)
    assert rows[0, 0, 1].item() == pytest.approx(voxels * math.log(classes), rel=3 * EPSILON)
    assert rows[1, 0].tolist() == [0, voxels, *[0] * (classes - 2)]
    assert not rows[0, 0, ::2].any()


def test_products_and_bytes_hold_what_plans_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "BLOCK_TILES", 16)
    for classes, fold in itertools.product(range(2, 129), (1, 2, 4, 8)):
        plan = Plan(0, 0, fold, 4, 1, 1, fold, wide=False)
        logs, tiles = tiling.tiles_of_labels(plan, classes)
        assert classes ** (logs * fold) < 2.0**127
        assert tiles % logs == 0
        assert tiles * fold <= 255


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_infinities_and_nan() -> None:
    """As the reference in float64 has them: where, and nowhere else."""
    terms = [term for term in TERMS if term != "focal"]  # of its own class alone, in all kernels
    case = case_of((6, 4, 600), terms=terms).to(torch.float32)
    target = case.target.clone()
    target[:, 3] = 2
    x = case.x.clone()
    x[0, 1, 3] = torch.nan  # all classes' p
    x[1, 2, 3] = -torch.inf  # its own class: no chance
    x[2, 1, 3] = -torch.inf  # another one
    x[3, 2, 3] = torch.inf
    x[4, :, 3] = -torch.inf
    rows, _ = launched(replace(case, x=x, target=target))
    wanted, _ = reference.forward(x.double(), target, None, case.options)
    assert torch.equal(rows.isnan(), wanted.isnan())
    assert torch.equal(rows.isinf(), wanted.isinf())
    assert torch.allclose(rows, wanted, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    ("dtype", "bad"),
    [
        *((torch.uint8, 200), (torch.int8, -1), (torch.int32, 2**31 - 1), (torch.int64, 2**32 + 1)),
        *((torch.int64, -(2**63)), (torch.float32, 1.5), (torch.float64, torch.nan)),
    ],
    ids=str,
)
@pytest.mark.parametrize("classes", [3, 20])
def test_labels_that_no_class_has(dtype: torch.dtype, bad: float, classes: int) -> None:
    """In whole tiles and behind them: how many there are, and the first."""
    case = case_of((2, classes, 2050), terms=COST).to(torch.float32)
    target = case.target.to(dtype)
    for places in ((2049,), (700,), (3, 1400, 2048)):
        broken = target.clone()
        for place in places:
            broken[1, place] = bad
        rows, invalid = launched(replace(case, target=broken))
        assert rows.isnan().all()
        assert invalid[0] == len(places)
        assert invalid[1] == pytest.approx(float(bad), nan_ok=True)
    assert launched(replace(case, target=target))[1] == [0, 0]
