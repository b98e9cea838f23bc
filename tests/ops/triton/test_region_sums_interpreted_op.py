"""The operator with the Triton kernels, on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import segloss_fast
from segloss_fast import backends, region_sums, region_sums_multi
from segloss_fast.ops.region_sums.contract import preference
from tests.helpers import gradient, relative_l2


def problem(*size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, 3, *size), generator=generator)
    return x, torch.randint(0, 3, (2, *size), generator=generator)


@pytest.mark.parametrize("kind", ["labels", "dense", "weighted"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_opcheck(kind: str, layout: str) -> None:
    x, target = problem(3, 4, 5)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last_3d)
    weight = torch.rand(2, 1, 3, 4, 5) if kind == "weighted" else None
    if kind == "dense":
        target = torch.rand_like(x)
    arguments = (target, weight, ["tp", "nll", "focal"], "softmax", "sigmoid", 2.0, None, "triton")
    operators = torch.ops.segloss_fast
    torch.library.opcheck(operators.region_sums, (x.requires_grad_(), *arguments))
    rows = torch.randn(3, 2, 3, dtype=torch.float64)
    torch.library.opcheck(operators.region_sums_backward, (rows, x.detach(), *arguments))


def test_compiles_into_one_graph() -> None:
    x, target = problem(5, 6)

    def loss(x: Tensor) -> Tensor:
        sums = region_sums(2 * x, target, terms=["tp", "nll", "pred"], impl="triton")
        return (sums.tp / sums.pred + sums.nll).sum()

    value, grad = gradient(loss, x)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    compiled_value, compiled_grad = gradient(compiled, x)
    torch._dynamo.reset()
    torch.testing.assert_close(compiled_value, value)
    torch.testing.assert_close(compiled_grad, grad)


def test_several_inputs_equal_one_call_each() -> None:
    sizes = [(4, 6), (2, 3), (17,)]
    inputs, targets = zip(*(problem(*size) for size in sizes), strict=True)
    options: dict[str, Any] = {"terms": ("nll", "tp"), "impl": "triton"}
    leaves = [x.requires_grad_() for x in inputs]
    together = [s.rows for s in region_sums_multi(leaves, targets, **options)]
    one_by_one = [region_sums(x, t, **options).rows for x, t in zip(leaves, targets, strict=True)]
    grads = torch.autograd.grad(torch.stack([rows.sum() for rows in together]).sum(), leaves)
    true_grads = torch.autograd.grad(torch.stack([rows.sum() for rows in one_by_one]).sum(), leaves)
    for found, truth in zip([*together, *grads], [*one_by_one, *true_grads], strict=True):
        assert torch.equal(found, truth)


def test_labels_out_of_range_raise_as_on_the_cpu() -> None:
    x, labels = problem(4, 5)
    labels[1, 2, 3] = 7
    with pytest.raises(ValueError, match="got 1 other values, the first of which is 7"):
        region_sums(x, labels, impl="triton")
    with pytest.raises(ValueError, match="got 1 other"):
        region_sums_multi([x[:1], x], [labels[:1], labels], impl="triton")


def test_a_second_derivative_and_float64_are_refused() -> None:
    x, labels = problem(4)
    x.requires_grad_()
    tp = region_sums(x, labels, impl="triton").tp
    (grad,) = torch.autograd.grad(tp.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="use impl='reference' for double backward"):
        grad.sum().backward()
    with pytest.raises(RuntimeError, match="no float64"):
        region_sums(x.double(), labels, impl="triton")


def test_a_loss_and_what_is_said_of_the_kernels() -> None:
    x, labels = problem(6, 7)
    criterion = segloss_fast.DiceFocalLoss(impl="triton", class_weight=[1.0, 2.0, 0.5])
    value, grad = gradient(lambda x: criterion(x, labels), x)
    reference = segloss_fast.DiceFocalLoss(impl="reference", class_weight=[1.0, 2.0, 0.5])
    true_value, true_grad = gradient(lambda x: reference(x, labels), x.double())
    assert abs(value.item() - true_value.item()) < 1e-6
    assert relative_l2(grad, true_grad) < 1e-6
    said = next(b for b in backends() if b.impl == "triton" and b.device == "cpu")
    assert said.available
    assert said.detail.endswith("interpreted")
    assert preference([x]) == ("native",)  # never by itself
