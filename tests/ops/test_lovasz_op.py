"""lovasz inside torch: operator contract, layouts, threads, memory, compile, choice of method."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from segloss_fast import LovaszSums, lovasz
from segloss_fast.ops.lovasz import bins, contract
from segloss_fast.ops.lovasz.op import kernels
from tests.helpers import gradient, peak_allocation, relative_l2
from tests.ops.lovasz_samples import ACTIVATIONS, IMPLS
from tests.suite.tiers import begins_in, few

by_impl = pytest.mark.parametrize("impl", IMPLS)
by_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
by_method = pytest.mark.parametrize("method", ["sort", "histogram"])
needs_native = pytest.mark.skipif("native" not in IMPLS, reason="the native module is not built")


def inputs(
    *size: int, classes: int = 3, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = (2 * torch.randn((2, classes, *size), generator=generator)).to(dtype)
    return x, torch.randint(0, classes, (2, *size), generator=generator)


def run(x: Tensor, target: Tensor, **keywords: object) -> tuple[Tensor, Tensor]:
    """Return loss and cross-entropy, and the gradient of a weighted sum of both."""

    def both(x: Tensor) -> Tensor:
        sums = lovasz(x, target, cross_entropy=True, **keywords)  # type: ignore[arg-type]
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
@needs_native
@pytest.mark.parametrize("case", few(OPCHECKED, test=3), ids=str)
def test_opcheck(case: tuple[str, str, bool]) -> None:
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
    coefficients = torch.randn(images, 3, 2, bins.number(9, 4))
    grad = torch.randn(images, 3, dtype=torch.float64)
    for ce in (grad, None):
        torch.library.opcheck(
            operators.lovasz_histogram_backward, (coefficients, ce, x, target, *binned)
        )
    for wanted in (True, False):
        options = (activation, per_image, ignored, True, wanted, "native")
        data = (leaf if wanted else x, target)
        torch.library.opcheck(operators.lovasz_sort, (*data, *options))
    g = torch.randn(x.shape)
    options = (activation, per_image, ignored, True, True, "native")
    torch.library.opcheck(operators.lovasz_sort_backward, (g, grad, grad, x, target, *options))


@needs_native
@by_method
def test_kernels_have_no_second_derivative(method: str) -> None:
    x, target = inputs(4, 5)
    loss = lovasz(x.requires_grad_(), target, method=method, impl="native").loss.sum()
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="impl='reference' for double backward"):
        grad.sum().backward()


@by_impl
@by_method
@by_activation
@pytest.mark.parametrize("what", ["input", "labels", "dense"])
@pytest.mark.parametrize("layout", ["sliced", "transposed", "channels_last"])
def test_any_strides(impl: str, method: str, activation: str, what: str, layout: str) -> None:
    x, target = inputs(4, 6, 10)
    if what == "dense":
        target = torch.rand_like(x)
    plain = x if what == "input" else target
    if layout == "sliced":
        strided = torch.stack([plain, plain], -1).flatten(-2)[..., ::2]
    elif layout == "transposed":
        strided = plain.transpose(-1, -3).contiguous().transpose(-1, -3)
    else:
        strided = plain.movedim(1, -1).contiguous().movedim(-1, 1)
    assert torch.equal(strided, plain)
    keywords = {"activation": activation, "method": method, "impl": impl}
    value, grad = run(x, target, **keywords)
    before = strided.clone()
    if what == "input":
        other, other_grad = run(strided, target, **keywords)
        if layout == "channels_last":
            assert other_grad.is_contiguous(memory_format=torch.channels_last_3d)
    else:
        other, other_grad = run(x, strided, **keywords)
    torch.testing.assert_close(other, value, rtol=1e-6, atol=1e-7)
    assert relative_l2(other_grad, grad) < 1e-6
    assert torch.equal(strided, before)


@by_impl
@by_method
@by_activation
def test_bits_do_not_depend_on_threads_or_on_the_run(
    impl: str, method: str, activation: str
) -> None:
    x, target = inputs(29, 31, 17)
    before = torch.get_num_threads()
    value, grad = run(x, target, activation=activation, method=method, impl=impl)
    try:
        for threads in (1, 2, 5) if impl == "native" else (before,):
            torch.set_num_threads(threads)
            other, other_grad = run(x, target, activation=activation, method=method, impl=impl)
            assert torch.equal(other, value), threads
            assert torch.equal(other_grad, grad), threads
    finally:
        torch.set_num_threads(before)


@needs_native
@by_method
@by_activation
@pytest.mark.parametrize("per_image", [False, True])
def test_every_output_is_written(method: str, activation: str, per_image: bool) -> None:
    """In deterministic mode torch fills fresh memory with NaN."""
    x, target = inputs(5, 17, 33)
    keywords = {"activation": activation, "method": method, "per_image": per_image}
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        value, grad = run(x, target, ignore_index=1, impl="native", **keywords)
    finally:
        torch.use_deterministic_algorithms(False)
    assert value.isfinite().all()
    assert grad.isfinite().all()


@needs_native
@by_activation
@pytest.mark.parametrize("side", [32, 64])
def test_memory_of_the_histogram_is_independent_of_the_volume(activation: str, side: int) -> None:
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
@by_impl
@by_method
@pytest.mark.parametrize("activation", few(ACTIVATIONS, test=1))
@pytest.mark.parametrize("backend", few(["aot_eager", "inductor"], test=1))
def test_compiles_into_one_graph(impl: str, method: str, activation: str, backend: str) -> None:
    if (backend, impl) == ("inductor", "reference"):
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
            impl=impl,
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


@by_impl
@by_method
def test_transforms_of_torch_func(impl: str, method: str) -> None:
    x, target = inputs(4, 5)

    def loss(x: Tensor, by: str = "auto") -> Tensor:
        return lovasz(x, target, method=method, impl=by).loss.sum()

    expected = gradient(functools.partial(loss, by="reference"), x)[1]
    torch.testing.assert_close(torch.func.grad(loss)(x), expected)
    if impl != "reference":
        with pytest.raises(RuntimeError, match=r"transforms of torch\.func"):
            torch.func.grad(functools.partial(loss, by=impl))(x)


def test_auto_sorts_small_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []

    def note(*arguments: object, **keywords: object) -> LovaszSums:
        used.append("sort")
        return LovaszSums(*[torch.zeros(1)] * 5)

    monkeypatch.setattr(contract, "_sort", note)
    for voxels, per_image, sorts in ((2**17, False, False), (2**17 - 1, False, True)):
        x = torch.zeros(2, 1, voxels)
        target = torch.zeros(2, voxels, dtype=torch.uint8)
        used.clear()
        lovasz(x, target, activation="hinge", per_image=per_image, bins=72)
        assert bool(used) == sorts
    used.clear()
    lovasz(torch.zeros(2, 1, 2**17), torch.zeros(2, 2**17), activation="hinge", per_image=True)
    assert used


def test_kernels_without_a_sort_take_the_histogram(monkeypatch: pytest.MonkeyPatch) -> None:
    x, target = inputs(4, 5)
    monkeypatch.setattr(
        kernels, "why_not", lambda impl, device, dtype, by: "no sort" if by == "sort" else None
    )
    choose = functools.partial(contract._choose, input=x, per_image=False)
    assert choose("triton", "auto", synchronised=False) == ("triton", "histogram")
    assert choose("reference", "auto", synchronised=False) == ("reference", "sort")
    assert choose("reference", "auto", synchronised=True) == ("reference", "histogram")
    assert choose("auto", "sort", synchronised=False) == ("reference", "sort")
    with pytest.raises(RuntimeError, match="no sort"):
        choose("triton", "sort", synchronised=False)
    assert target.dim() == 3


@by_impl
@by_method
def test_autocast_does_not_change_it(impl: str, method: str) -> None:
    x, target = inputs(5, 6, 7, dtype=torch.bfloat16)
    value, grad = run(x, target, method=method, impl=impl)
    with torch.autocast("cpu", torch.bfloat16):
        other, other_grad = run(x, target, method=method, impl=impl)
    assert value.dtype == torch.float64
    assert grad.dtype == torch.bfloat16
    assert torch.equal(other, value)
    assert torch.equal(other_grad, grad)


@by_impl
@by_method
def test_offsets_past_2_to_the_31(impl: str, method: str) -> None:
    """Strides beyond 2^31 elements, over memory of which only the used pages exist."""
    far = 2**31 + 5
    x = torch.randn(1, 2, 3, 5, generator=torch.Generator().manual_seed(0)).half()
    target = torch.arange(15).view(1, 3, 5) % 2
    strided = torch.empty(far + 15, dtype=torch.float16).as_strided(x.shape, (2 * far, far, 5, 1))
    strided.copy_(x)
    value, grad = run(x, target, method=method, impl=impl)
    other, other_grad = run(strided, target, method=method, impl=impl)
    torch.testing.assert_close(other, value, rtol=1e-6, atol=1e-7)
    assert relative_l2(other_grad, grad) < 1e-3
