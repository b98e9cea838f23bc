"""Losses over sums under torch.compile on the CPU: one operator each way, and when they are not."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import segloss_fast
from segloss_fast.losses import _compiled
from segloss_fast.ops.region_sums import graphs
from tests.conformance import LOSSES, LossRecord, problem
from tests.helpers import forget_plans, gradient
from tests.suite.tiers import few

RECORDS = [record for record in LOSSES if getattr(record.module, "over_sums", False)]
by_record = pytest.mark.parametrize("record", few(RECORDS, test=3), ids=lambda r: r.name)
pytestmark = [pytest.mark.torch_compile, pytest.mark.usefixtures("native")]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    forget_plans(monkeypatch)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(loss: nn.Module, backend: str = "aot_eager") -> tuple[Any, CompileCounterWithBackend]:
    """Return the compiled loss, and its graphs as they come."""
    counter = CompileCounterWithBackend(backend)
    return torch.compile(loss, fullgraph=True, backend=counter), counter


def are_one_operator(counter: CompileCounterWithBackend) -> list[bool]:
    """Return of each graph whether it calls the operator of sums and a formula."""
    return [
        any(node.target is graphs.operator for node in graph.graph.nodes)
        for graph in counter.graphs
    ]


def check(function: Any, loss: nn.Module, *tensors: Tensor) -> None:  # noqa: ANN401
    """Compare value and gradient with those without a graph."""
    x, *others = tensors
    found = gradient(lambda x: function(x, *others), x)
    for one, other in zip(found, gradient(lambda x: loss(x, *others), x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@by_record
@pytest.mark.parametrize("kind", ["ignore", "class_weighted"])
def test_a_graph_is_one_operator(record: LossRecord, kind: str) -> None:
    case = problem(kind, (5, 6), dtype=torch.float32)
    loss = record.module(ignore_index=case.ignore_index)
    function, counter = compiled(loss)
    weights = () if case.voxel_weight is None else (case.voxel_weight,)
    check(function, loss, case.input, case.target, *weights)
    assert are_one_operator(counter) == [True]


def test_weights_of_classes_may_change() -> None:
    case = problem("labels", (5, 6), dtype=torch.float32)
    loss: Any = segloss_fast.DiceCELoss(class_weight=[1.0, 2.0, 0.5])
    function, counter = compiled(loss)
    for _ in range(2):
        check(function, loss, case.input, case.target)
        loss.class_weight.mul_(torch.tensor([1.0, 0.25, 3.0]))
    assert are_one_operator(counter) == [True]


def test_sizes_and_options_that_change_get_the_operations_of_the_formula() -> None:
    loss = segloss_fast.DiceCELoss()
    function, counter = compiled(loss)
    for size in ((5, 6), (6, 7), (9, 4)):
        case = problem("labels", size, dtype=torch.float32)
        check(function, loss, case.input, case.target)
    assert counter.frame_count == 2
    for factor in (0.5, 0.25, 0.125):
        loss.lambda_ce = factor
        check(function, loss, case.input, case.target)
    assert counter.frame_count <= 4
    assert are_one_operator(counter)[:2] == [True, False]


def test_what_kernels_do_not_serve_is_traced() -> None:
    case = problem("dense", (5, 6), dtype=torch.float32)
    loss = segloss_fast.DiceLoss()
    function, counter = compiled(loss, "eager")
    target = case.target.requires_grad_()
    check(function, loss, case.input, target)
    with segloss_fast.use_impl("reference"):
        check(function, loss, case.input, target.detach())
    assert are_one_operator(counter) == [False, False]


def test_errors_are_those_without_a_graph() -> None:
    x, labels = torch.zeros(2, 3, 4), torch.full((2, 4), 7)
    function, _ = compiled(segloss_fast.DiceLoss())
    with pytest.raises(ValueError, match=r"class indices in \[0, 3\).*the first of which is 7"):
        function(x, labels)
    with pytest.raises(Exception, match="target must be class indices of shape"):
        function(x, torch.zeros(2, 5))


def test_modules_alike_share_a_graph() -> None:
    case = problem("labels", (5, 6), dtype=torch.float32)
    counter = CompileCounterWithBackend("eager")
    for _ in range(3):
        loss = segloss_fast.DiceLoss(squared=True)
        check(torch.compile(loss, fullgraph=True, backend=counter), loss, case.input, case.target)
    assert counter.frame_count == 1


def test_a_copy_from_a_file_is_one_operator_too(monkeypatch: pytest.MonkeyPatch) -> None:
    case = problem("labels", (5, 6), dtype=torch.float32)
    file = pickle.dumps(segloss_fast.DiceLoss(smooth_nr=0.25))
    monkeypatch.setattr(_compiled, "_known", {})  # as another process has it
    loss = pickle.loads(file)
    function, counter = compiled(loss, "eager")
    check(function, loss, case.input, case.target)
    assert are_one_operator(counter) == [True]


def test_of_very_many_losses_the_oldest_are_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compiled, "MOST", 2)
    monkeypatch.setattr(_compiled, "_known", {})
    case = problem("labels", (5, 6), dtype=torch.float32)
    losses = [segloss_fast.DiceLoss(smooth_nr=smooth) for smooth in (0.25, 0.5, 0.75)]
    assert len(_compiled._known) == 2
    for loss, expected in zip(losses, (False, True, True), strict=True):
        function, counter = compiled(loss, "eager")
        check(function, loss, case.input, case.target)
        assert are_one_operator(counter) == [expected]


def test_functions_of_one_name_are_not_confused() -> None:
    names = []
    for sign in (1, -1):

        def function(x: Tensor, _: Tensor, sign: int = sign) -> Tensor:
            return sign * x.sum()

        names.append(_compiled.name_of(function, {}, ()))
    assert names[0] is not None
    assert names[1] is None


def test_a_formula_written_is_read_as_it_was() -> None:
    case = problem("labels", (5, 6), dtype=torch.float32)
    loss = segloss_fast.DiceFocalLoss(smooth_nr=1e-300, gamma=1 / 3, ignore_index=-(2**63))
    loss(case.input, case.target)
    assert loss._ready is not None
    formula = loss._ready.call.formula
    assert repr(graphs.read(graphs.write(formula))) == repr(
        (formula, None)
    )  # where a NaN is itself


@pytest.mark.parametrize("kind", ["labels", "class_weighted"])
def test_opcheck(kind: str) -> None:
    case = problem(kind, (5, 6), dtype=torch.float32)
    loss: Any = segloss_fast.DiceCELoss(class_weight=[1.0, 2.0, 0.5])
    tensors = case.input, case.target, case.voxel_weight
    loss(*tensors)
    assert loss._ready is not None
    text = graphs.write(loss._ready.call.formula)
    leaf = case.input.clone().requires_grad_()
    torch.library.opcheck(graphs.operator, (leaf, *tensors[1:], loss.class_weight, text))
    _, rows = graphs.operator(*tensors, loss.class_weight, text)
    backward = torch.ops.segloss_fast.region_formula_backward
    torch.library.opcheck(backward, (torch.tensor(0.5), rows, *tensors, text))


def test_a_batch_without_items() -> None:
    loss = segloss_fast.DiceCELoss()
    function, _ = compiled(loss)
    check(function, loss, torch.zeros(0, 3, 4, 5), torch.zeros(0, 4, 5))
