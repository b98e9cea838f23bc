"""TopK and generalised Wasserstein Dice on a device: the CPU's answer, and the host never waits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import segloss_fast
from tests.gpu.device import DEVICE, no_synchronisation, on_device
from tests.helpers import gradient, relative_l2

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
