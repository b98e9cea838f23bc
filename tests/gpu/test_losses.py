"""Every loss of the conformance table on a CUDA device, against its definition on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import segloss_fast
from benchmarks.measure.cuda import capture
from tests import oracles
from tests.conformance import LossRecord, problem
from tests.gpu.device import DEVICE, IMPLS, on_device, require
from tests.gpu.few_variants import loss_keywords, loss_problems
from tests.helpers import assert_close, gradient, relative_l2


@pytest.mark.parametrize(
    ("record", "kind"),
    [pytest.param(record, kind, id=f"{record.name}-{kind}") for record, kind in loss_problems()],
)
@pytest.mark.parametrize("impl", IMPLS)
def test_equals_its_definition(record: LossRecord, impl: str, kind: str) -> None:
    require(impl, *record.primitives)
    case = problem(kind, dtype=torch.float32, hard=record.hard)
    tried = 0
    for keywords in loss_keywords(record, kind):
        probabilities = keywords.get("activation") == "probabilities"
        x = case.input.sigmoid() if probabilities else case.input
        options = {**keywords, "ignore_index": case.ignore_index}

        def definition(x: Tensor, options: dict[str, object] = options) -> Tensor:
            volume = oracles.volume(x, case.target, case.voxel_weight, options)
            return record.oracle(volume)

        true_value, true_grad = gradient(definition, x.double())
        there, target, weight = on_device(x, case.target, case.voxel_weight)
        assert there is not None

        def loss(
            x: Tensor,
            target: Tensor | None = target,
            weight: Tensor | None = weight,
            options: dict[str, object] = options,
        ) -> Tensor:
            return record.function(x, target, weight, impl=impl, **options)

        value, grad = gradient(loss, there)
        assert value.device.type == DEVICE
        assert_close(value.cpu(), true_value, 1e-5, keywords)
        assert relative_l2(grad.cpu(), true_grad) < 1e-5, keywords
        tried += 1
    assert tried >= 6


@pytest.mark.parametrize("impl", IMPLS)
def test_deep_supervision_equals_that_of_the_cpu(impl: str) -> None:
    require(impl)
    case = problem("ignore", (16, 12, 24), dtype=torch.float32)
    xs = [case.input, *(case.input[..., ::step, ::step, ::step].clone() for step in (2, 4))]
    loss = segloss_fast.DeepSupervisionLoss(segloss_fast.DiceCELoss(ignore_index=255, impl=impl))
    plain = segloss_fast.DiceCELoss(ignore_index=255, impl="reference")
    definition = segloss_fast.DeepSupervisionLoss(plain)
    exact = [x.double().requires_grad_() for x in xs]
    true_value = definition(exact, case.target)
    true_grads = torch.autograd.grad(true_value, exact)
    there = [x.to(DEVICE).requires_grad_() for x in xs]
    value = loss(there, case.target.to(DEVICE))
    assert_close(value.cpu(), true_value, 1e-5)
    for grad, true_grad in zip(torch.autograd.grad(value, there), true_grads, strict=True):
        assert relative_l2(grad.cpu(), true_grad) < 1e-5


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_a_cuda_graph_holds_class_weights_of_the_host(impl: str, kind: type) -> None:
    """Which were copied by the call before it; the module was not moved to the device."""
    require(impl)
    case = problem("labels", dtype=torch.float32)
    x, target = on_device(case.input, case.target)
    assert x is not None
    weights = kind([0.5 + c for c in range(x.shape[1])])
    loss = segloss_fast.DiceCELoss(class_weight=weights, impl=impl)
    graph, found = capture(lambda: loss(x, target))
    x.copy_(x.roll(1, -1))
    graph.replay()
    assert torch.equal(found, loss(x, target))
