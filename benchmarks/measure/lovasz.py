"""What the tests of the Lovász losses' benchmarks do: compare a case's contenders, and say so."""

from __future__ import annotations

import functools

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cases.contenders import HALF
from benchmarks.cases.inputs import blob_labels, logits
from benchmarks.cases.lovasz import OURS, Case, contender, contenders, truth
from benchmarks.measure import compare
from benchmarks.measure.harness import Effort, Step
from segloss_fast.ops.lovasz.contract import SORT_BELOW

# What ours may be off by: the sort's gradient is that of float32 errors, of which many are equal.
VALUE_ERROR, GRADIENT_ERROR = 1e-5, 1e-2


@functools.lru_cache(maxsize=1)  # one at a time: volumes are large, and tests come case by case
def measure(case: Case, effort: Effort) -> compare.Measured:
    """Compare the contenders of a case."""
    target = blob_labels(case.shape, foreground=case.foreground)
    # kornia counts absent classes, the others leave them out: only where all are there it compares.
    assert "kornia" not in case.contenders or len(target.unique()) == max(case.shape[1], 2)
    x = logits(target, case.shape[1], case.logits).to(case.device, case.dtype).requires_grad_()
    target = target.to(case.device)
    scale = 2.0**16 if case.dtype in HALF else 1.0
    steps = {name: Step(contender(case, name), (x,), (target,), scale) for name in contenders(case)}
    exact = x.detach().double().requires_grad_()
    return compare.compare(steps, Step(truth(case), (exact,), (target,)), effort)


def run(benchmark: BenchmarkFixture, case: Case, name: str, mode: str, effort: Effort) -> None:
    """Be the test of one case, contender and mode; fail if an answer of ours is wrong."""
    voxels = case.shape[0] * torch.Size(case.shape[2:]).numel()
    about: dict[str, object] = {
        "case": case.name,
        "loss": case.loss,
        "shape": list(case.shape),
        "dtype": str(case.dtype)[6:],
        "logits": case.kind,
        "peer": "Berman et al.",
        "device": case.device,
        "ours": "sort" if voxels < SORT_BELOW else "histogram",
    }
    accuracy = compare.record(benchmark, measure(case, effort), name, mode, effort, about)
    if name in OURS:
        rounding = torch.finfo(case.dtype).eps  # of the gradient, to the input's dtype
        assert accuracy.value < VALUE_ERROR, f"{case.name}: {accuracy}"
        assert accuracy.grad_l2 < max(GRADIENT_ERROR, rounding), f"{case.name}: {accuracy}"
