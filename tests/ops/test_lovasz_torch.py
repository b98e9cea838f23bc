"""lovasz inside torch, on every machine: operators, layouts, threads, memory, graphs, methods."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import segloss_fast
from segloss_fast import lovasz
from segloss_fast.ops._operator import preference
from segloss_fast.ops.lovasz import bins
from tests.helpers import gradient, peak_allocation, relative_l2
from tests.machines import Machine, on, sized
from tests.ops.lovasz_cases import by_activation, by_method, require
from tests.ops.lovasz_samples import ACTIVATIONS, sample
from tests.ops.region_sums_cases import lay_out
from tests.suite.tiers import begins_in, few

publicly = on("reference", "native", "interpreted", "cuda")  # the shim has operators only


def inputs(
    *size: int, classes: int = 3, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = (2 * torch.randn((2, classes, *size), generator=generator)).to(dtype)
    return x, torch.randint(0, classes, (2, *size), generator=generator)


def run(machine: Machine, x: Tensor, target: Tensor, **keywords: object) -> tuple[Tensor, Tensor]:
    """Return loss and cross-entropy, and the gradient of a weighted sum of both."""
    x, target = machine.place(x), machine.place(target)

    def both(x: Tensor) -> Tensor:
        sums = lovasz(x, target, cross_entropy=True, impl=machine.asked, **keywords)  # type: ignore[arg-type]
        assert sums.cross_entropy is not None
        return torch.cat([sums.loss, 0.01 * sums.cross_entropy])

    return gradient(both, x)


# Every pair of an activation, a kind of target and a pooling, in turn.
OPCHECKED = [
    (activation, kind, (a + k) % 2 == 0)
    for a, activation in enumerate(ACTIVATIONS)
    for k, kind in enumerate(("labels", "dense", "channels_last"))
]


@begins_in("test")
@on("native")
@pytest.mark.parametrize("case", few(OPCHECKED, test=3), ids=str)
def test_opcheck(machine: Machine, case: tuple[str, str, bool]) -> None:
    activation, kind, per_image = case
    x, target = inputs(3, 4, 5)
    if kind == "channels_last":
        x = x.to(memory_format=torch.channels_last_3d)
    if kind == "dense":
        target = torch.rand_like(x)
    ignored = None if kind == "dense" else 2
    binned = (activation, 9, 4, per_image, ignored, True, "native")
    operators = torch.ops.segloss_fast
    torch.library.opcheck(operators.lovasz_count, (x, target, *binned))
    counts, rows = operators.lovasz_count(x, target, *binned)
    leaf = x.detach().clone().requires_grad_()
    torch.library.opcheck(operators.lovasz_histogram, (leaf, target, counts, rows, *binned))
    images = 2 if per_image else 1
    table = torch.randn(images, 3, 2, bins.number(9, 4))
    grad = torch.randn(images, 3, dtype=torch.float64)
    for ce in (grad, None):
        torch.library.opcheck(
            operators.lovasz_histogram_backward, (table, grad, ce, x, target, *binned)
        )
    for wanted in (True, False):
        options = (activation, per_image, ignored, True, wanted, "native")
        data = (leaf if wanted else x, target)
        torch.library.opcheck(operators.lovasz_sort, (*data, *options))
    g = torch.randn(x.shape)
    options = (activation, per_image, ignored, True, True, "native")
    torch.library.opcheck(operators.lovasz_sort_backward, (g, grad, grad, x, target, *options))


@publicly
@by_method
def test_second_derivatives(machine: Machine, method: str) -> None:
    """The reference has them, kernels refuse."""
    require(machine, method)
    x, target, _ = sample((1, 3, 4, 5), "labels", dtype=torch.float32)
    x, target = machine.place(x).requires_grad_(), machine.place(target)
    loss = lovasz(x, target, method=method, impl=machine.asked).loss.sum()
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    if machine.impl != "reference":
        with pytest.raises(RuntimeError, match="impl='reference' for double backward"):
            grad.sum().backward()
        return
    (second,) = torch.autograd.grad(grad.square().sum(), x)
    assert second.isfinite().all()
    assert second.abs().max() > 0


@publicly
@by_activation
@by_method
@pytest.mark.parametrize("what", ["input", "labels", "dense"])
@sized(
    "layout",
    ["sliced", "transposed", "channels_last"],
    interpreted=["channels_last"],
)
def test_any_strides(
    machine: Machine, method: str, layout: str, activation: str, what: str
) -> None:
    require(machine, method)
    x, target = inputs(4, 6, 10)
    if what == "dense":
        target = torch.rand_like(x)
    plain = x if what == "input" else target
    strided = lay_out(plain, layout)
    assert torch.equal(strided, plain)
    keywords: dict[str, object] = {"activation": activation, "method": method}
    value, grad = run(machine, x, target, **keywords)
    before = strided.clone()
    if what == "input":
        other, other_grad = run(machine, strided, target, **keywords)
        if layout == "channels_last":
            assert other_grad.is_contiguous(memory_format=torch.channels_last_3d)
    else:
        other, other_grad = run(machine, x, strided, **keywords)
    torch.testing.assert_close(other, value, rtol=1e-6, atol=1e-7)
    assert relative_l2(other_grad, grad) < 1e-6
    assert torch.equal(strided, before)


@by_activation
@by_method
@sized("size", [(29, 31, 17)], interpreted=[(3, 5, 7)], shim=[(9, 31, 7)])
def test_bits_do_not_depend_on_the_order_or_on_the_run(
    machine: Machine, method: str, size: tuple[int, ...], activation: str
) -> None:
    """Of threads, which natively are more or fewer, and on the shim come in other orders."""
    require(machine, method)
    x, target = inputs(*size)
    before = torch.get_num_threads()
    options: dict[str, object] = {"activation": activation, "method": method}
    value, grad = run(machine, x, target, **options)
    try:
        for threads in machine.pick((before,), native=(1, 2, 5), shim=(0, 1, 2)):
            machine.set_order(threads)
            torch.set_num_threads(max(1, threads) if machine.family == "native" else before)
            other, other_grad = run(machine, x, target, **options)
            assert torch.equal(other, value), threads
            assert torch.equal(other_grad, grad), threads
    finally:
        torch.set_num_threads(before)


@on("native")
@by_activation
@pytest.mark.parametrize("side", [32, 64])
def test_memory_of_the_histogram_is_independent_of_the_volume(
    machine: Machine, activation: str, side: int
) -> None:
    x, target = inputs(side, side, side, classes=4)
    x.requires_grad_()
    size = x.numel() * x.element_size()
    # Per class: the counts, and as much again for every thread and as table.
    counters = 4 * 2 * bins.number(*bins.DEFAULT) * 8 * (4 + torch.get_num_threads())

    def step() -> None:
        sums = lovasz(x, target, activation=activation, method="histogram", impl="native")
        sums.loss.sum().backward()
        x.grad = None

    assert peak_allocation(step) - size < 2**20 + counters


@pytest.mark.torch_compile
@on("reference", "native", "interpreted")
@by_method
@sized("activation", few(ACTIVATIONS, test=1), interpreted=ACTIVATIONS[:1])
@sized("backend", few(["aot_eager", "inductor"], test=1), interpreted=["aot_eager"])
def test_compiles_into_one_graph(
    machine: Machine, method: str, activation: str, backend: str
) -> None:
    if (backend, machine.impl) == ("inductor", "reference"):
        pytest.skip("a graph of torch's operators, which are not ours to test")
    if backend == "inductor" and activation != "softmax":
        pytest.skip("its graph is that of softmax; compiling it takes long")
    x, target = inputs(5, 6)

    def loss(x: Tensor) -> Tensor:
        sums = lovasz(
            2 * x,
            target,
            activation=activation,
            method=method,
            bins=1152,
            ignore_index=0,
            cross_entropy=True,
            impl=machine.asked,
        )
        assert sums.cross_entropy is not None
        return (sums.loss * sums.present + sums.cross_entropy / sums.weight).sum()

    value, grad = gradient(loss, x)
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    compiled_value, compiled_grad = gradient(compiled, x)
    torch._dynamo.reset()
    torch.testing.assert_close(compiled_value, value, rtol=1e-6, atol=1e-7)
    # Inductor may round an error across an edge of its bin.
    assert relative_l2(compiled_grad, grad) < (1e-6 if backend == "aot_eager" else 1e-2)


@on("reference", "native")
@by_method
def test_transforms_of_torch_func(machine: Machine, method: str) -> None:
    x, target = inputs(4, 5)

    def loss(x: Tensor, by: str = "auto") -> Tensor:
        return lovasz(x, target, method=method, impl=by).loss.sum()

    expected = gradient(functools.partial(loss, by="reference"), x)[1]
    torch.testing.assert_close(torch.func.grad(loss)(x), expected)
    if machine.impl != "reference":
        with pytest.raises(RuntimeError, match=r"transforms of torch\.func"):
            torch.func.grad(functools.partial(loss, by=machine.asked))(x)


@publicly
@by_method
def test_autocast_does_not_change_it(machine: Machine, method: str) -> None:
    require(machine, method)
    x, target = inputs(5, 6, 7, dtype=torch.bfloat16)
    value, grad = run(machine, x, target, method=method)
    with torch.autocast(machine.device, torch.bfloat16):
        other, other_grad = run(machine, x, target, method=method)
    assert value.dtype == torch.float64
    assert grad.dtype == torch.bfloat16
    assert torch.equal(other, value)
    assert torch.equal(other_grad, grad)


@on("interpreted")
def test_auto_takes_the_histogram_where_there_is_no_sort(machine: Machine) -> None:
    x, labels = inputs(5, 6)
    auto = lovasz(x, labels, impl="triton").loss
    assert torch.equal(auto, lovasz(x, labels, impl="triton", method="histogram").loss)
    with pytest.raises(RuntimeError, match="no sort"):
        lovasz(x, labels, impl="triton", method="sort")
    with pytest.raises(RuntimeError, match="no float64"):
        lovasz(x.double(), labels, impl="triton", method="histogram")
    assert preference(x.device) == ("native",)  # never by itself on the CPU


@publicly
@by_activation
@pytest.mark.parametrize("per_image", [False, True])
def test_losses_equal_the_reference(machine: Machine, activation: str, per_image: bool) -> None:
    x, labels, _ = sample((2, 3, 6, 7), "labels", activation, torch.float32)
    name = f"Lovasz{activation.capitalize()}Loss"
    shared: dict[str, Any] = {"per_image": per_image, "ce_weight": 0.5, "method": "histogram"}
    target = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)

    def solve(impl: str, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        criterion = getattr(segloss_fast, name)(impl=impl, **shared)
        return gradient(lambda x: criterion(x, target), x)

    value, grad = solve(machine.asked, machine.place(x), machine.place(target))
    true_value, true_grad = solve("reference", x.double(), target)
    assert abs(value.item() - true_value.item()) < 1e-6
    assert relative_l2(grad.cpu(), true_grad) < 1e-6
