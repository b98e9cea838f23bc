"""float16 and bfloat16 at 128^3: the answer of the same rounded input in float32."""

from __future__ import annotations

import pytest
import torch

import segloss_fast
from tests.helpers import IMPLS, relative_l2, relative_max


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loss", [segloss_fast.DiceLoss, segloss_fast.DiceCELoss])
def test_half_precision_volume(impl: str, dtype: torch.dtype, loss: type[torch.nn.Module]) -> None:
    torch.manual_seed(0)
    x = (2 * torch.randn(1, 2, 128, 128, 128)).to(dtype)
    target = torch.randint(0, 2, (1, 128, 128, 128), dtype=torch.uint8)
    module = loss(impl=impl)
    scale = 2.0**20  # a gradient of the unscaled mean is below float16's smallest number
    grads, values = [], []
    for cast in (dtype, torch.float32):
        leaf = x.to(cast, copy=True).requires_grad_()
        value = module(leaf, target)
        (scale * value).backward()
        assert leaf.grad is not None
        assert leaf.grad.dtype == cast
        values.append(value.item())
        grads.append(leaf.grad.float())
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert grads[1].abs().max() > 1e-3
    rounding = torch.finfo(dtype).eps / 2
    assert relative_l2(grads[0], grads[1]) < rounding
    assert relative_max(grads[0], grads[1]) < 1.01 * rounding
