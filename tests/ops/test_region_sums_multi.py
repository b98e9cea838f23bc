"""region_sums_multi: several inputs in one call equal one call each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast import RegionSums, region_sums, region_sums_multi
from segloss_fast._native import _C
from segloss_fast.ops.region_sums import TERMS
from tests.helpers import IMPLS
from tests.suite.tiers import begins_in, few

by_impl = pytest.mark.parametrize("impl", IMPLS)
needs_native = pytest.mark.skipif(_C is None, reason="the native module is not built")
SHAPES = [(2, 3, 16, 24, 9), (1, 3, 8, 12, 5), (2, 3, 97), (3, 3, 1, 1), (1, 3, 65, 67)]


def levels(kind: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Return inputs, targets, voxel weights and ignore_index of several sizes and ranks."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]
    inputs[0] = inputs[0].to(memory_format=torch.channels_last_3d)
    found: dict[str, Any] = {"inputs": inputs, "voxel_weights": None, "ignore_index": None}
    if kind == "dense":
        found["targets"] = [torch.rand(shape, generator=generator) for shape in SHAPES]
        found["voxel_weights"] = [torch.randn(shape, generator=generator) for shape in SHAPES]
        return found
    spaces = [(shape[0], *shape[2:]) for shape in SHAPES]
    found["targets"] = [torch.randint(0, 3, space, generator=generator) for space in spaces]
    if kind == "ignore":
        found["ignore_index"] = 2
        found["voxel_weights"] = [torch.rand(s[0], 1, *s[2:], generator=generator) for s in SHAPES]
    return found


def with_gradients(
    sums: list[RegionSums], inputs: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the rows, and the gradient of a sum of all rows that weighs them differently."""
    values = torch.cat([record.rows.flatten() for record in sums])
    loss = (values * torch.linspace(1, 2, values.numel(), dtype=values.dtype)).sum()
    return [record.rows.detach() for record in sums], list(torch.autograd.grad(loss, inputs))


@by_impl
@pytest.mark.parametrize("kind", ["labels", "ignore", "dense"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_equals_one_call_each(impl: str, kind: str, dtype: torch.dtype) -> None:
    call = levels(kind, dtype)
    inputs = [x.requires_grad_() for x in call["inputs"]]
    options: dict[str, Any] = {"terms": TERMS, "gamma": 2.0, "ce_activation": "sigmoid"}
    weights, ignore = call["voxel_weights"], call["ignore_index"]
    together = region_sums_multi(
        inputs, call["targets"], voxel_weights=weights, ignore_index=ignore, impl=impl, **options
    )
    one_by_one = [
        region_sums(x, target, voxel_weight=weight, ignore_index=ignore, impl=impl, **options)
        for x, target, weight in zip(
            inputs, call["targets"], weights or [None] * len(inputs), strict=True
        )
    ]
    rows, grads = with_gradients(together, inputs)
    true_rows, true_grads = with_gradients(one_by_one, inputs)
    for row, true_row, x in zip(rows, true_rows, inputs, strict=True):
        assert row.shape == (len(TERMS), *x.shape[:2])
        assert torch.equal(row, true_row)
    for grad, true_grad, x in zip(grads, true_grads, inputs, strict=True):
        assert impl == "reference" or grad.stride() == x.stride()
        assert torch.equal(grad, true_grad)


@by_impl
def test_one_input_and_empty_ones(impl: str) -> None:
    x, labels = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 5, 6))
    (one,) = region_sums_multi([x], [labels[:, None]], impl=impl)
    assert torch.equal(one.rows, region_sums(x, labels, impl=impl).rows)
    inputs = [torch.randn(0, 4, 3, requires_grad=True), torch.randn(2, 4, 0, requires_grad=True), x]
    targets = [torch.zeros(0, 3, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.int64), labels]
    sums = region_sums_multi(inputs, targets, impl=impl)
    assert [record.rows.shape[1] for record in sums] == [0, 2, 2]
    assert (sums[1].rows == 0).all()
    assert torch.equal(sums[2].rows, one.rows)
    total = torch.stack([record.rows.sum() for record in sums]).sum()
    grads = torch.autograd.grad(total, inputs[:2])
    assert [grad.shape for grad in grads] == [x.shape for x in inputs[:2]]


@by_impl
def test_labels_out_of_range(impl: str) -> None:
    call = levels("labels")
    call["targets"][1][0, 3, 1, 2] = 7
    call["targets"][4][0, 3, 1] = 9
    with pytest.raises(ValueError, match="got 2 other values, the first of which is 7"):
        region_sums_multi(call["inputs"], call["targets"], impl=impl)


def _change(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    x, labels = torch.randn(2, 3, 4), torch.zeros(2, 4, dtype=torch.int64)
    return {"inputs": [x, x], "targets": [labels, labels], **changes}


X, LABELS = torch.randn(2, 3, 4), torch.zeros(2, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (_change(inputs=X), TypeError, "inputs must be a sequence of tensors, got Tensor"),
        (_change(inputs=[]), ValueError, "inputs must hold at least one tensor"),
        (_change(targets=[LABELS]), ValueError, "targets must hold one tensor per input, 2, got 1"),
        (_change(targets=[LABELS, None]), TypeError, "targets must be a sequence of tensors"),
        (_change(inputs=[X, X[:, :2]]), ValueError, r"the same number of classes, got \[3, 2\]"),
        (_change(inputs=[X, X.double()]), ValueError, "inputs must have one dtype"),
        (_change(inputs=[X, X.long()]), TypeError, "input must have one of the dtypes"),
        (_change(targets=[LABELS, LABELS.int()]), ValueError, "targets must have one dtype"),
        (_change(targets=[LABELS, LABELS[:1]]), ValueError, "target must be class indices"),
        (_change(targets=[LABELS.float(), X]), ValueError, "class indices all, or values per"),
        (_change(voxel_weights=[X[:, :1]]), ValueError, "voxel_weights must hold one tensor per"),
        (_change(voxel_weights=[X[:, :1], X]), ValueError, "one number of channels"),
        (_change(voxel_weights=[X, X.double()]), ValueError, "voxel_weights must have one dtype"),
        (_change(impl="fast"), ValueError, "impl must be one of"),
        (_change(terms=["dice"]), ValueError, "terms must be different names"),
    ],
)
def test_bad_input_is_refused(call: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        region_sums_multi(call.pop("inputs"), call.pop("targets"), **call)


@begins_in("test")
@needs_native
def test_opcheck() -> None:
    call = levels("ignore")
    arguments = (call["targets"], call["voxel_weights"], ["tp", "nll"], "softmax", "softmax")
    rest = (0.0, 2, "native")
    operators = torch.ops.segloss_fast
    inputs = [x.requires_grad_() for x in call["inputs"]]
    torch.library.opcheck(operators.region_sums_multi, (inputs, *arguments, *rest))
    rows = torch.randn(2, sum(x.shape[0] for x in inputs), 3, dtype=torch.float64)
    plain = [x.detach() for x in inputs]
    torch.library.opcheck(operators.region_sums_multi_backward, (rows, plain, *arguments, *rest))


@pytest.mark.torch_compile
@by_impl
@pytest.mark.parametrize("backend", few(["aot_eager", "inductor"], test=1))
def test_compiles_into_one_graph(impl: str, backend: str) -> None:
    if (backend, impl) == ("inductor", "reference"):
        pytest.skip("a graph of torch's operators, which are not ours to test")
    call = levels("labels")

    def loss(*inputs: Tensor) -> Tensor:
        doubled = [2 * x for x in inputs]
        sums = region_sums_multi(doubled, call["targets"], terms=("tp", "nll"), impl=impl)
        return torch.stack([(record.tp + record.nll).sum() for record in sums]).sum()

    def run(function: Any) -> list[Tensor]:  # noqa: ANN401
        inputs = [x.detach().requires_grad_() for x in call["inputs"]]
        return list(torch.autograd.grad(function(*inputs), inputs))

    compiled = run(torch.compile(loss, fullgraph=True, backend=backend))
    torch._dynamo.reset()
    for grad, true_grad in zip(compiled, run(loss), strict=True):
        torch.testing.assert_close(grad, true_grad)


@needs_native
def test_second_derivative_is_refused() -> None:
    x, labels = X.clone().requires_grad_(), LABELS
    (sums,) = region_sums_multi([x], [labels], impl="native")
    (grad,) = torch.autograd.grad(sums.tp.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative in its kernels"):
        grad.sum().backward()


@needs_native
def test_bits_do_not_depend_on_threads() -> None:
    call = levels("dense")
    before = torch.get_num_threads()

    def rows() -> list[Tensor]:
        sums = region_sums_multi(call["inputs"], call["targets"], impl="native")
        return [record.rows for record in sums]

    first = rows()
    try:
        for threads in (1, 3, 7):
            torch.set_num_threads(threads)
            for row, other in zip(rows(), first, strict=True):
                assert torch.equal(row, other), threads
    finally:
        torch.set_num_threads(before)
