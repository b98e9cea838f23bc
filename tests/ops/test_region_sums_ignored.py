"""What region_sums promises on every machine of ignored voxels."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from segloss_fast.ops.region_sums import TERMS
from tests.helpers import relative_l2, relative_max
from tests.machines import Machine, on, sized
from tests.ops.region_sums_cases import (
    LOSS_TERMS,
    case_of,
    in_best_dtype,
    solve,
    solved_alike,
    sums,
)
from tests.ops.samples import ACTIVATIONS
from tests.suite.tiers import few

# Classes and both activations; of one class the softmax is always 1.
PROBLEMS = [
    *((4, *pair) for pair in ACTIVATIONS),
    (1, "sigmoid", "sigmoid"),
    (1, "probabilities", "probabilities"),
]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "probabilities"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_ignored_voxels_may_hold_anything(
    machine: Machine, activation: str, bad: float, shared: bool
) -> None:
    case = in_best_dtype(machine, case_of((2, 4, 5, 7), "ignore", TERMS, activation, gamma=1.5))
    weight = torch.rand(2, 1 if shared else 4, 5, 7)
    ignored = (case.target == 255)[:, None]
    x = case.x.masked_fill(ignored, bad)
    case = replace(case, weight=weight)
    others = [replace(case, x=x)] if machine.impl != "reference" else []
    if bad != bad:
        others.append(replace(case, weight=weight.masked_fill(ignored, bad)))
    rows, grad = solved_alike(machine, case, *others)
    found, found_grad = solve(machine, replace(case, x=x))  # by other steps in the reference
    assert relative_max(found, rows) < 1e-13
    assert relative_l2(found_grad, grad) < 1e-13
    assert not found_grad[ignored.expand_as(grad)].any()
    nothing = replace(case, x=x, target=torch.full_like(case.target, 255))
    for tensor in solve(machine, nothing):
        assert not tensor.any()


@on(sets=True)
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("bad", few([torch.nan, torch.inf, 1e308], test=1))
@sized("problem", PROBLEMS, interpreted=[*PROBLEMS, (150, "softmax", "softmax")])
def test_no_gradient_comes_to_ignored_voxels(
    machine: Machine, problem: tuple[int, str, str], bad: float
) -> None:
    """Not even 0 times what is no number."""
    classes, activation, ce_activation = problem
    terms = machine.pick(TERMS, interpreted=LOSS_TERMS)
    case = case_of((2, classes, 5, 17), "ignore", terms, activation, ce_activation, 1.5)
    for dtype in machine.pick((torch.float32, torch.float16), interpreted=(torch.float32,)):
        for weight in machine.pick((None, case.weight), interpreted=(None,)):
            changed = replace(case.to(dtype), weight=weight).each(machine.place)
            x, ignored = changed.x.requires_grad_(), changed.target == 255
            rows = sums(machine, changed)
            (grad,) = torch.autograd.grad(rows, x, torch.full_like(rows, bad))
            by_voxel = grad.movedim(1, -1)
            assert not by_voxel[ignored].any()
            assert math.isfinite(bad) or not by_voxel[~ignored].isfinite().all()


@on("reference")  # kernels take one at a time
def test_several_gradients_at_once(machine: Machine) -> None:
    """Whose values nobody may look at."""
    case = case_of((2, 3, 5, 17), "ignore")
    x, ignored = case.x.requires_grad_(), case.target == 255
    rows = sums(machine, case)
    several = torch.stack([torch.full_like(rows, torch.nan), torch.ones_like(rows)])
    (grads,) = torch.autograd.grad(rows, x, several, is_grads_batched=True, retain_graph=True)
    assert not grads.movedim(2, -1)[:, ignored].any()
    (grad,) = torch.autograd.grad(rows, x, several[1])
    torch.testing.assert_close(grads[1], grad)
