"""Plain PyTorch, which computes where the kernels are not built, against MONAI, on the CPU.

    python -m pytest benchmarks/bench_reference.py --benchmark-only -o addopts=

Every loss that MONAI has, at matching options (docs/migration.md). ``reference`` is what a user
gets from an install without native kernels: the kernels are made unavailable for the call, and for
the losses over distances, in a contender of its own, SciPy too. What is measured, and how it is
published, is as in bench_region_sums.py. A test fails if the two sides differ in float64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import monai.losses
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import segloss_fast
from benchmarks.cases.contenders import Case, contenders, cube, make_inputs, on_one
from benchmarks.cases.inputs import LossFunction
from benchmarks.measure import compare
from benchmarks.measure.choice import parametrize
from benchmarks.measure.harness import MODES, Effort, Step, measure_accuracy, solve
from segloss_fast import _native
from segloss_fast.ops.distance_transform import scipy_transform

Loss = Callable[[Tensor, Tensor], Tensor]
SOFTMAX: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
UNSMOOTHED: dict[str, Any] = {"smooth_nr": 0.0, "smooth_dr": 0.0}
DISTANCES = 1 - torch.eye(4)
# By our name of the loss: ours, and MONAI's at the same options.
LOSSES: dict[str, tuple[Callable[[], Loss], Callable[[], Loss]]] = {
    "Dice": (segloss_fast.DiceLoss, lambda: monai.losses.DiceLoss(**SOFTMAX)),
    "SquaredDice": (
        lambda: segloss_fast.DiceLoss(squared=True),
        lambda: monai.losses.DiceLoss(squared_pred=True, **SOFTMAX),
    ),
    "Jaccard": (
        lambda: segloss_fast.JaccardLoss(smooth_nr=0.5e-5, smooth_dr=0.5e-5),
        lambda: monai.losses.DiceLoss(jaccard=True, **SOFTMAX),
    ),
    "DiceCE": (segloss_fast.DiceCELoss, lambda: monai.losses.DiceCELoss(**SOFTMAX)),
    "DiceFocal": (
        lambda: segloss_fast.DiceFocalLoss(ce_activation="sigmoid"),
        lambda: monai.losses.DiceFocalLoss(**SOFTMAX),
    ),
    "Focal": (
        lambda: segloss_fast.FocalLoss(activation="sigmoid"),
        lambda: monai.losses.FocalLoss(to_onehot_y=True),
    ),
    "SoftmaxFocal": (
        lambda: _divided(segloss_fast.FocalLoss(), 4),  # MONAI's mean is over the classes too
        lambda: monai.losses.FocalLoss(use_softmax=True, to_onehot_y=True),
    ),
    "Tversky": (segloss_fast.TverskyLoss, lambda: monai.losses.TverskyLoss(**SOFTMAX)),
    "GeneralizedDice": (  # whose smoothing differs
        lambda: segloss_fast.GeneralizedDiceLoss(**UNSMOOTHED),
        lambda: monai.losses.GeneralizedDiceLoss(**UNSMOOTHED, **SOFTMAX),
    ),
    "GeneralizedDiceFocal": (
        lambda: segloss_fast.GeneralizedDiceFocalLoss(ce_activation="sigmoid", **UNSMOOTHED),
        lambda: monai.losses.GeneralizedDiceFocalLoss(**UNSMOOTHED, **SOFTMAX),
    ),
    "WassersteinDice": (
        lambda: segloss_fast.GeneralizedWassersteinDiceLoss(distance_matrix=DISTANCES),
        lambda: _of_indices(monai.losses.GeneralizedWassersteinDiceLoss(DISTANCES.numpy())),
    ),
    "MCC": (
        lambda: segloss_fast.MCCLoss(smooth_nr=0),
        lambda: monai.losses.MCCLoss(**SOFTMAX),
    ),
    "SoftClDice": (
        segloss_fast.SoftClDiceLoss,
        lambda: monai.losses.SoftclDiceLoss(iter_=3, **SOFTMAX),
    ),
    "SoftDiceClDice": (
        segloss_fast.SoftDiceClDiceLoss,
        lambda: monai.losses.SoftDiceclDiceLoss(iter_=3, alpha=0.5, **SOFTMAX),
    ),
    "HausdorffDT": (
        lambda: segloss_fast.HausdorffDTLoss(include_background=False),
        lambda: _of_floats(monai.losses.HausdorffDTLoss(**SOFTMAX)),
    ),
    "LogHausdorffDT": (
        lambda: segloss_fast.LogHausdorffDTLoss(include_background=False),
        lambda: _of_floats(monai.losses.LogHausdorffDTLoss(**SOFTMAX)),
    ),
    "Boundary": (
        segloss_fast.BoundaryLoss,
        lambda: _of_floats(monai.losses.BoundaryLoss(**SOFTMAX)),
    ),
}
# A step of theirs takes seconds on the larger volume.
DISTANCE = ("HausdorffDT", "LogHausdorffDT", "Boundary")
SLOW = (*DISTANCE, "SoftClDice", "SoftDiceClDice")
CONTENDERS = ("reference", "eager")
WITHOUT_SCIPY = "without SciPy"
SMALL = 16  # the side of the volume on which two sides are compared in float64


def _divided(loss: Loss, by: float) -> Loss:
    return lambda input, target: loss(input, target) / by


def _of_indices(loss: Loss) -> Loss:
    return lambda input, target: loss(input, target[:, 0])


def _of_floats(loss: Loss) -> Loss:
    """Return the loss of a floating-point target: of an integer one MONAI truncates distances."""
    return lambda input, target: loss(input, target.to(input.dtype))


def _case(loss: str, side: int) -> Case:
    return cube(loss, 4, side, *CONTENDERS, *([WITHOUT_SCIPY] if loss in DISTANCE else []))


CASES = [
    _case(loss, side) for side in (64, 128) for loss in LOSSES if side == 64 or loss not in SLOW
]
QUICK_CASES = [_case(loss, 32) for loss in LOSSES]


@contextmanager
def _replaced(module: ModuleType, **names: object) -> Iterator[None]:
    before = {name: getattr(module, name) for name in names}
    vars(module).update(names)
    try:
        yield
    finally:
        vars(module).update(before)


@contextmanager
def no_kernels(*, scipy: bool = True) -> Iterator[None]:
    """Make the native kernels unavailable, as in an install without them, and SciPy if so."""
    why = "left out by the benchmark"
    with ExitStack() as stack:
        stack.enter_context(_replaced(_native, _C=None, _NO_NATIVE=why))
        if not scipy:
            stack.enter_context(_replaced(scipy_transform, why_not=lambda device: why))
        yield


def loss_of(loss: str, name: str) -> LossFunction:
    """Return ours without kernels, or MONAI's."""
    ours, theirs = LOSSES[loss]
    if name == "eager":
        return on_one(theirs())
    own = on_one(ours())

    def pure(inputs: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> Tensor:
        with no_kernels(scipy=name != WITHOUT_SCIPY):
            return own(inputs, targets)

    return pure


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, CASES, QUICK_CASES, contenders, MODES)


@functools.lru_cache(maxsize=1)
def measure(case: Case, effort: Effort) -> compare.Measured:
    """Compare the two sides of a case, and whether they are the same loss."""
    inputs, targets = make_inputs(case)
    steps = {name: Step(loss_of(case.loss, name), inputs, targets) for name in case.contenders}
    exact = tuple(x.detach().double().requires_grad_() for x in inputs)
    found = compare.compare(steps, Step(loss_of(case.loss, "eager"), exact, targets), effort)
    small = cube(case.loss, 4, SMALL)
    inputs, targets = make_inputs(small)
    exact = tuple(x.detach().double().requires_grad_() for x in inputs)
    ours, theirs = (Step(loss_of(case.loss, name), exact, targets) for name in CONTENDERS)
    differ = measure_accuracy(ours, solve(theirs))
    # MONAI's distances are float32 and some of its constants, too.
    assert max(differ.value, differ.grad_l2) < 1e-5, f"not the same loss: {differ}"
    return found


def test_reference(
    benchmark: BenchmarkFixture, case: Case, contender: str, mode: str, effort: Effort
) -> None:
    about = compare.describe(case, "MONAI", "reference")
    compare.record(benchmark, measure(case, effort), contender, mode, effort, about)
