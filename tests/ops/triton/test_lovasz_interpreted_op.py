"""lovasz with the Triton kernels, on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import segloss_fast
from segloss_fast.ops._operator import preference
from segloss_fast.ops.lovasz import lovasz, lovasz_counts
from tests.helpers import gradient, relative_l2
from tests.ops.triton.lovasz_problems import options, sample


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "hinge"])
@pytest.mark.parametrize("per_image", [False, True])
def test_losses_equal_the_reference(activation: str, per_image: bool) -> None:
    x, labels = sample((2, 3, 6, 7), "labels", options(activation))
    name = f"Lovasz{activation.capitalize()}Loss"
    shared: dict[str, Any] = {"per_image": per_image, "ce_weight": 0.5, "method": "histogram"}
    target = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)

    def solve(impl: str, x: Tensor) -> tuple[Tensor, Tensor]:
        criterion = getattr(segloss_fast, name)(impl=impl, **shared)
        return gradient(lambda x: criterion(x, target), x)

    value, grad = solve("triton", x)
    true_value, true_grad = solve("reference", x.double())
    assert abs(value.item() - true_value.item()) < 1e-6
    assert relative_l2(grad, true_grad) < 1e-6


def test_counts_equal_the_reference() -> None:
    x, labels = sample((2, 3, 6, 7), "labels", options())
    arguments: dict[str, Any] = {"activation": "softmax", "per_image": True}
    ours = lovasz_counts(x, labels, impl="triton", **arguments)
    assert torch.equal(ours, lovasz_counts(x.double(), labels, impl="reference", **arguments))


def test_compiles_into_one_graph() -> None:
    x, labels = sample((1, 3, 5, 6), "labels", options())

    def loss(x: Tensor) -> Tensor:
        return lovasz(2 * x, labels, impl="triton", method="histogram").loss.sum()

    value, grad = gradient(loss, x)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    compiled_value, compiled_grad = gradient(compiled, x)
    torch._dynamo.reset()
    torch.testing.assert_close(compiled_value, value)
    torch.testing.assert_close(compiled_grad, grad)


def test_auto_takes_the_histogram_where_there_is_no_sort() -> None:
    x, labels = sample((1, 3, 5, 6), "labels", options())
    auto = lovasz(x, labels, impl="triton").loss
    assert torch.equal(auto, lovasz(x, labels, impl="triton", method="histogram").loss)
    with pytest.raises(RuntimeError, match="no sort"):
        lovasz(x, labels, impl="triton", method="sort")
    with pytest.raises(RuntimeError, match="no float64"):
        lovasz(x.double(), labels, impl="triton", method="histogram")
    assert preference(x.device) == ("native",)  # never by itself on the CPU


def test_labels_out_of_range_raise_as_on_the_cpu() -> None:
    x, labels = sample((2, 3, 4, 5), "labels", options())
    labels[1, 2, 3] = 7
    with pytest.raises(ValueError, match="got 1 other values, the first of which is 7"):
        lovasz(x, labels, impl="triton")
