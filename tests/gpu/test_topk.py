"""TopK and generalised Wasserstein Dice on a device: the CPU's answer, and the host never waits."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import segloss_fast
from segloss_fast.ops.hardest_voxels import Rule, hardest_voxels
from segloss_fast.ops.region_sums import ACTIVATIONS
from tests.gpu.device import DEVICE, no_synchronisation, on_device, require, there
from tests.gpu.few_variants import TOPK_CLASSES, topk_classes, topk_problems
from tests.helpers import gradient, relative_l2
from tests.ops.distance_transform_cases import LAYOUTS, lay_out
from tests.ops.hardest_voxels_cases import DTYPES, Case, check, random_input, random_weight
from tests.ops.region_masks_cases import random_labels

LOSSES: list[Any] = [
    segloss_fast.TopKLoss,
    segloss_fast.DiceTopKLoss,
    segloss_fast.GeneralizedWassersteinDiceLoss,
]


def problem() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x, labels = torch.randn(2, 4, 16, 24, 32), torch.randint(0, 4, (2, 16, 24, 32))
    labels[torch.rand(labels.shape) < 0.2] = 255
    return x, labels


@pytest.mark.parametrize("loss", LOSSES)
def test_equals_the_cpu(loss: Any) -> None:  # noqa: ANN401
    module = loss(ignore_index=255, class_weight=[0.5, 1.0, 2.0, 1.5])
    x, labels = problem()
    value, grad = gradient(lambda x: module(x, labels), x)
    there, target = on_device(x, labels)
    assert there is not None
    on_gpu = module.to(DEVICE)
    other, other_grad = gradient(lambda x: on_gpu(x, target), there)
    assert other.device.type == DEVICE
    torch.testing.assert_close(other.cpu(), value)
    assert relative_l2(other_grad.cpu(), grad) < 1e-5


@pytest.mark.parametrize("loss", LOSSES)
def test_the_host_never_waits(loss: Any) -> None:  # noqa: ANN401
    module = loss(ignore_index=255, class_weight=[0.5, 1.0, 2.0, 1.5]).to(DEVICE)
    x, labels = (tensor.to(DEVICE) for tensor in problem())
    gradient(lambda x: module(x, labels), x)  # compiles
    with no_synchronisation():
        gradient(lambda x: module(x, labels), x)


def run(case: Case) -> tuple[Tensor, Tensor]:
    """Return what Triton's kernels find on the device, on the CPU."""
    weight, scales = (
        None if tensor is None else there(tensor)
        for tensor in (case.voxel_weight, case.rule.class_weight)
    )
    rule = replace(case.rule, class_weight=scales)
    x, target = there(case.input), there(case.target)
    weights, sums = hardest_voxels(x, target, weight, rule, impl="triton")
    return weights.cpu(), sums.cpu()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_random_problems(activation: str) -> None:
    """Of many sizes, by few kernels."""
    require("triton", "hardest_voxels")
    for case in topk_problems(activation):
        check(run(case), case)


@pytest.mark.parametrize("classes", TOPK_CLASSES)
def test_any_number_of_classes(classes: int) -> None:
    require("triton", "hardest_voxels")
    for case in topk_classes(classes):
        check(run(case), case)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_volumes(layout: str) -> None:
    require("triton", "hardest_voxels")
    draw = random.Random(0)
    labels = lay_out(random_labels((2, 63, 65, 40), 5, torch.uint8, draw), layout)
    for dtype in DTYPES:
        x = lay_out(random_input((2, 5, 63, 65, 40), dtype, "softmax", draw), layout)
        weight = random_weight(x.shape, 1, draw)
        for rule, w in (
            (Rule(20.0, "softmax", ignore_index=6), None),
            (Rule(20.0, "sigmoid", 1), weight),
        ):
            case = Case(x, labels, w, rule)
            check(run(case), case)
