"""Second derivatives: right in the reference, and refused by the kernels, for every loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast import StructuralSimilarityLoss
from tests.conformance import LOSSES, LossRecord, problem
from tests.helpers import IMPLS
from tests.records import LOVASZ_LOSSES
from tests.suite.tiers import begins_in, few

ACTIVATIONS = few(["probabilities", "softmax", "sigmoid"], test=2)
of_the_reference = pytest.mark.of("reference")
MODULES = [record.module for record in LOSSES]


def check(module: Any, kind: str, **keywords: Any) -> None:  # noqa: ANN401
    """Compare with the differences of first derivatives."""
    case = problem(kind, (2, 3), batch=1, seed=3)
    x = case.input / 3
    x = x.sigmoid() if keywords.get("activation") == "probabilities" else x
    loss = module(ignore_index=case.ignore_index, impl="reference", **keywords)

    def value(x: Tensor) -> Tensor:
        result: Tensor = loss(x, case.target, case.voxel_weight)
        return result

    assert torch.autograd.gradgradcheck(value, (x.requires_grad_(),))


@of_the_reference
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", few(["class_weighted", "ignore", "dense"], test=2))
def test_structural_similarity(activation: str, kind: str) -> None:
    """Of a product, both of whose factors depend on the input."""
    check(StructuralSimilarityLoss, kind, activation=activation, beta=0.3, c=0.1)


@of_the_reference
@begins_in("all")
@pytest.mark.parametrize("activation", ["probabilities", "softmax"])
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_of_the_reference(module: Any, activation: str) -> None:  # noqa: ANN401
    check(module, "ignore", activation=activation)


@of_the_reference
@begins_in("all")
@pytest.mark.parametrize("name", list(LOVASZ_LOSSES))
@pytest.mark.parametrize("method", ["sort", "histogram"])
def test_of_the_reference_of_lovasz(name: str, method: str) -> None:
    check(LOVASZ_LOSSES[name][0], "ignore", method=method)


@pytest.mark.parametrize("impl", [impl for impl in IMPLS if impl != "reference"])
@pytest.mark.parametrize("record", LOSSES, ids=lambda record: record.name)
def test_kernels_refuse(record: LossRecord, impl: str) -> None:
    case = problem("ignore", (4, 5))
    x = case.input.requires_grad_()
    loss = record.function(x, case.target, ignore_index=255, impl=impl)
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="use impl='reference' for double backward"):
        grad.sum().backward()
