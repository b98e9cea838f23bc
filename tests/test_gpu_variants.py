"""How many kernels the tests of a GPU let Triton compile, counted without one: each takes seconds.

Where these numbers grow, the check of a device (scripts/gpu_check.sh) takes longer.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

from segloss_fast.ops.hardest_voxels import hardest_voxels
from segloss_fast.ops.region_sums import ACTIVATIONS
from tests.conformance import problem
from tests.gpu.few_variants import (
    TOPK_CLASSES,
    loss_keywords,
    loss_problems,
    topk_classes,
    topk_problems,
)
from tests.helpers import gradient
from tests.ops.hardest_voxels_cases import LABELS, Case
from tests.suite.kinds import interpreting, why_no_triton
from tests.suite.tiers import begins_in

if why_no_triton() is not None or interpreting():
    pytest.skip("needs Triton, not interpreted", allow_module_level=True)

from tests.gpu.variants import Variant, record_variants


@pytest.fixture
def variants(monkeypatch: pytest.MonkeyPatch) -> set[Variant]:
    """Return the kernels that a test's calls would have compiled."""
    return record_variants(monkeypatch)


def run(case: Case) -> None:
    hardest_voxels(case.input, case.target, case.voxel_weight, case.rule, impl="triton")


@begins_in("test")
def test_random_topk_problems_need_two_dozen(variants: set[Variant]) -> None:
    """450 problems with random constants needed 454."""
    cases = [case for activation in ACTIVATIONS for case in topk_problems(activation)]
    assert len(cases) == 450
    assert len({case.input.shape for case in cases}) > 100
    for case in cases:
        run(case)
    assert 12 <= len(variants) <= 24, sorted(map(str, variants))


@begins_in("test")
def test_topk_problems_of_many_classes_need_three_dozen(variants: set[Variant]) -> None:
    """Every number of classes with every dtype of labels needed 100."""
    cases = [case for classes in TOPK_CLASSES for case in topk_classes(classes)]
    assert {case.target.dtype for case in cases} == set(LABELS)
    for case in cases:
        run(case)
    assert len(variants) <= 36, sorted(map(str, variants))


@begins_in("all")
def test_losses_need_no_more_than_they_must(variants: set[Variant]) -> None:
    """Each loss with each kind of problem, and all keywords, needed 555."""
    calls = 0
    for record, kind in loss_problems():
        case = problem(kind, dtype=torch.float32, hard=record.hard)
        for keywords in loss_keywords(record, kind):
            probabilities = keywords.get("activation") == "probabilities"
            x = case.input.sigmoid() if probabilities else case.input
            options = {**keywords, "ignore_index": case.ignore_index, "impl": "triton"}
            call = partial(
                record.function, target=case.target, voxel_weight=case.voxel_weight, **options
            )
            gradient(call, x)
            calls += 1
    assert calls > 1500
    assert len(variants) <= 230, len(variants)
