"""region_sums inside torch, on every machine: operators, graphs, autocast, threads, memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import segloss_fast
from segloss_fast import region_sums, region_sums_multi
from segloss_fast.ops.region_sums.contract import preference
from tests.helpers import gradient, peak_allocation, relative_l2
from tests.machines import Machine, on, sized
from tests.ops.region_sums_cases import case_of, lay_out, solve
from tests.suite.tiers import begins_in, few

publicly = on("reference", "native", "interpreted", "cuda")  # the shim has operators only
kernels = on("native", "interpreted", "cuda")
Levels = tuple[list[Tensor], list[Tensor], list[Tensor]]


def inputs(
    machine: Machine, *size: int, classes: int = 3, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, classes, *size), generator=generator).to(dtype)
    labels = torch.randint(0, classes, (2, *size), generator=generator)
    return machine.place(x), machine.place(labels)


def levels(machine: Machine) -> Levels:
    """Return inputs, targets and weights of several sizes and ranks."""
    sizes = [(16, 24, 9), (8, 12, 5), (97,), (1, 1), (65, 67)]
    sizes = machine.pick(sizes, interpreted=[(4, 6), (2, 3), (17,)])
    cases = [
        case_of((1 + i % 3, 3, *size), "ignore").to(torch.float32) for i, size in enumerate(sizes)
    ]
    cases = [replace(case, target=case.target % 3).each(machine.place) for case in cases]
    weights = [case.weight for case in cases if case.weight is not None]
    cases[0] = replace(cases[0], x=lay_out(cases[0].x, "channels_last"))
    return [case.x for case in cases], [case.target for case in cases], weights


@begins_in("test")
@kernels
@pytest.mark.parametrize("kind", ["labels", "dense", "weighted"])
@sized(
    "layout",
    ["contiguous", "channels_last", "transposed"],
    interpreted=["contiguous", "channels_last"],
    cuda=["contiguous"],
)
def test_opcheck(machine: Machine, layout: str, kind: str) -> None:
    x, target = inputs(machine, 3, 4, 5)
    x = x if layout == "contiguous" else lay_out(x, layout)
    weight = torch.rand(2, 1, 3, 4, 5, device=x.device) if kind == "weighted" else None
    if kind == "dense":
        target = torch.rand_like(x)
    options = (["tp", "nll", "focal"], "softmax", "sigmoid", 2.0, None, machine.asked)
    arguments = (target, weight, *options)
    operators = torch.ops.segloss_fast
    torch.library.opcheck(operators.region_sums, (x.requires_grad_(), *arguments))
    rows = torch.randn(3, 2, 3, dtype=torch.float64, device=x.device)
    torch.library.opcheck(operators.region_sums_backward, (rows, x.detach(), *arguments))


@begins_in("test")
@on("native")
def test_opcheck_of_several_inputs(machine: Machine) -> None:
    xs, targets, weights = levels(machine)
    arguments = (targets, weights, ["tp", "nll"], "softmax", "softmax", 0.0, 2, "native")
    operators = torch.ops.segloss_fast
    leaves = [x.clone().requires_grad_() for x in xs]
    torch.library.opcheck(operators.region_sums_multi, (leaves, *arguments))
    rows = torch.randn(2, sum(x.shape[0] for x in xs), 3, dtype=torch.float64)
    torch.library.opcheck(operators.region_sums_multi_backward, (rows, xs, *arguments))


def check_compiled(
    machine: Machine, backend: str, loss: Callable[..., Tensor], *xs: Tensor
) -> None:
    """Assert that a graph of the loss gives its value and gradient."""
    if (backend, machine.impl) == ("inductor", "reference"):
        pytest.skip("a graph of torch's operators, which are not ours to test")

    def run(function: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [x.detach().requires_grad_() for x in xs]
        value = function(*leaves)
        return [value.detach(), *torch.autograd.grad(value, leaves)]

    compiled = run(torch.compile(loss, fullgraph=True, backend=backend))
    torch._dynamo.reset()
    for found, true in zip(compiled, run(loss), strict=True):
        torch.testing.assert_close(found, true)


by_backend = sized("backend", few(["aot_eager", "inductor"], test=1), interpreted=["aot_eager"])


@pytest.mark.torch_compile
@publicly
@by_backend
def test_compiles_into_one_graph(machine: Machine, backend: str) -> None:
    x, target = inputs(machine, 5, 6, 7)

    def loss(x: Tensor) -> Tensor:
        found = region_sums(2 * x, target, terms=["tp", "nll", "pred"], impl=machine.asked)
        return (found.tp / found.pred + found.nll).sum()

    check_compiled(machine, backend, loss, x)


@pytest.mark.torch_compile
@on("reference", "native", "cuda")
@by_backend
def test_several_inputs_compile_into_one_graph(machine: Machine, backend: str) -> None:
    xs, targets, _ = levels(machine)

    def loss(*xs: Tensor) -> Tensor:
        doubled = [2 * x for x in xs]
        found = region_sums_multi(doubled, targets, terms=("tp", "nll"), impl=machine.asked)
        return torch.stack([(record.tp + record.nll).sum() for record in found]).sum()

    check_compiled(machine, backend, loss, *xs)


@publicly
def test_autocast_does_not_change_it(machine: Machine) -> None:
    x, target = inputs(machine, 5, 6, 7, dtype=torch.bfloat16)

    def rows(x: Tensor) -> Tensor:
        return region_sums(x, target, terms=["tp", "nll"], impl=machine.asked).rows

    found, grad = gradient(rows, x)
    with torch.autocast(machine.device, torch.bfloat16):
        other, other_grad = gradient(rows, x)
    assert found.dtype == torch.float64
    assert grad.dtype == torch.bfloat16
    assert torch.equal(other, found)
    assert torch.equal(other_grad, grad)


def test_sums_of_chunks_add_up(machine: Machine) -> None:
    x, target = inputs(machine, 6, 8, 5)
    whole = region_sums(x, target, impl=machine.asked)
    parts = [
        region_sums(x[:, :, i : i + 3], target[:, i : i + 3], impl=machine.asked) for i in (0, 3)
    ]
    torch.testing.assert_close((parts[0] + parts[1]).rows, whole.rows, rtol=1e-6, atol=1e-6)


@publicly
def test_a_row_read_without_gradient_does_not_take_it_away(machine: Machine) -> None:
    x, target = inputs(machine, 4, 5)
    found = region_sums(x.requires_grad_(), target, impl=machine.asked)
    with torch.no_grad():
        assert found.tp.isfinite().all()
    (grad,) = torch.autograd.grad(found.tp.sum(), x)
    assert grad.abs().sum() > 0


@publicly
def test_empty_inputs_among_others(machine: Machine) -> None:
    x, labels = inputs(machine, 5, 6, classes=4)
    one = region_sums(x, labels, impl=machine.asked)
    (alone,) = region_sums_multi([x], [labels[:, None]], impl=machine.asked)
    assert torch.equal(alone.rows, one.rows)
    empty = [torch.randn(0, 4, 3), torch.randn(2, 4, 0)]
    xs = [*(tensor.to(x.device).requires_grad_() for tensor in empty), x]
    targets = [*(labels.new_zeros(y.shape[0], y.shape[2]) for y in empty), labels]
    found = region_sums_multi(xs, targets, impl=machine.asked)
    assert [record.rows.shape[1] for record in found] == [0, 2, 2]
    assert (found[1].rows == 0).all()
    assert torch.equal(found[2].rows, one.rows)
    grads = torch.autograd.grad(torch.stack([r.rows.sum() for r in found]).sum(), xs[:2])
    assert [grad.shape for grad in grads] == [y.shape for y in empty]


@publicly
def test_second_derivatives(machine: Machine) -> None:
    """The reference has them, kernels refuse."""
    x, labels = inputs(machine, 4, 5)
    x.requires_grad_()
    (several,) = region_sums_multi([x], [labels], impl=machine.asked)
    for tp, said in (
        (region_sums(x, labels, impl=machine.asked).tp, "use impl='reference' for double backward"),
        (several.tp, "no second derivative in its kernels"),
    ):
        (grad,) = torch.autograd.grad(tp.square().sum(), x, create_graph=True)
        if machine.impl == "reference":
            grad.square().sum().backward()
        else:
            with pytest.raises(RuntimeError, match=said):
                grad.sum().backward()


@on("interpreted")
def test_float64_is_refused(machine: Machine) -> None:
    x, labels = inputs(machine, 4)
    with pytest.raises(RuntimeError, match="no float64"):
        region_sums(x.double(), labels, impl="triton")
    assert preference([x]) == ("native",)  # never by itself


@publicly
def test_a_loss(machine: Machine) -> None:
    x, labels = inputs(machine, 6, 7)

    def solved(impl: str, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        criterion = segloss_fast.DiceFocalLoss(impl=impl, class_weight=[1.0, 2.0, 0.5])
        return gradient(lambda x: criterion.to(x.device)(x, labels), x)

    value, grad = solved(machine.asked, x, labels)
    true_value, true_grad = solved("reference", x.double().cpu(), labels.cpu())
    assert abs(value.item() - true_value.item()) < 1e-6
    assert relative_l2(grad.cpu(), true_grad) < 1e-6


@on("native")
def test_bits_do_not_depend_on_threads_or_on_the_run(machine: Machine) -> None:
    case = case_of((2, 3, 61, 67, 29)).to(torch.float32)
    several = levels(machine)
    before = torch.get_num_threads()

    def run() -> list[Tensor]:
        (xs, targets, weights), options = several, {"impl": "native"}
        found = region_sums_multi(xs, targets, voxel_weights=weights, **options)  # type: ignore[arg-type]
        return [*solve(machine, case), *(record.rows for record in found)]

    expected = run()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            for _ in range(2):
                for found, true in zip(run(), expected, strict=True):
                    assert torch.equal(found, true), threads
    finally:
        torch.set_num_threads(before)


@on("native")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("classes", "side"), [(4, 64), (105, 32)])
def test_memory_is_independent_of_the_volume(
    machine: Machine, layout: str, dtype: torch.dtype, classes: int, side: int
) -> None:
    x, target = inputs(machine, side, side, side, classes=classes, dtype=dtype)
    x = (x if layout == "contiguous" else lay_out(x, layout)).requires_grad_()
    size = x.numel() * x.element_size()
    options: dict[str, Any] = {"ce_activation": "sigmoid", "gamma": 2, "impl": "native"}

    def forward() -> Tensor:
        terms = ("tp", "pred", "target", "nll", "focal", "focal_neg")
        return region_sums(x, target, terms=terms, **options).rows.sum()

    assert peak_allocation(forward) < 2**20 + 0.01 * size
    above_gradient = peak_allocation(lambda: forward().backward()) - size
    assert above_gradient < 2**20 + 0.01 * size


@publicly
def test_what_is_differentiated(machine: Machine) -> None:
    """Targets and weights by the reference alone, on request or by itself."""
    x, _ = inputs(machine, 2, 2)
    target = torch.rand_like(x).requires_grad_()
    weight = torch.rand(2, 1, 2, 2, device=x.device, requires_grad=True)
    options: dict[str, Any] = {"terms": ("tp", "sq_err", "nll", "nll_neg", "abs_err")}
    if machine.impl != "reference":
        named = machine.asked
        with pytest.raises(RuntimeError, match=f"impl='{named}' is not available here: the grad"):
            region_sums(x, target, impl=named, **options)
        with torch.no_grad():
            region_sums(x, target, impl=named, **options)
        return
    leaves = [tensor.detach().double().requires_grad_() for tensor in (x, target, weight)]
    for impl in ("reference", "auto"):
        assert torch.autograd.gradcheck(
            lambda x, t, w, impl=impl: region_sums(x, t, voxel_weight=w, impl=impl, **options).rows,
            leaves,
        )


@on("reference")
def test_torch_func_takes_the_reference(machine: Machine) -> None:
    x, _ = inputs(machine, 4, 5)
    grad = torch.func.grad(lambda x: region_sums(x, torch.rand_like(x)).tp.sum())(x)
    assert grad.shape == x.shape
