"""region_sums inside torch on a CUDA device: synchronisation, graphs, streams, memory, offsets."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import segloss_fast
from benchmarks.measure.cuda import capture
from segloss_fast import region_sums, region_sums_multi
from segloss_fast.ops.region_sums import TERMS
from tests.gpu.device import DEVICE, IMPLS, KERNELS, no_synchronisation, require
from tests.helpers import gradient, relative_l2

by_impl = pytest.mark.parametrize("impl", IMPLS)
by_kernel = pytest.mark.parametrize("impl", KERNELS)
SHIPPED = ("tp", "pred", "target", "nll")


def inputs(
    *size: int, classes: int = 4, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(DEVICE).manual_seed(0)
    x = torch.randn((2, classes, *size), generator=generator, device=DEVICE).to(dtype)
    return x, torch.randint(0, classes, (2, *size), generator=generator, device=DEVICE)


def step(x: Tensor, labels: Tensor, impl: str, **options: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return the rows and the gradient of their sum."""
    terms = options.pop("terms", SHIPPED)
    rows = region_sums(x, labels, terms=terms, impl=impl, **options).rows
    (grad,) = torch.autograd.grad(rows.sum(), x)
    return rows.detach(), grad


@by_kernel
@pytest.mark.parametrize("classes", [4, 64])
def test_the_host_never_waits(impl: str, classes: int) -> None:
    require(impl)
    x, labels = inputs(16, 16, 16, classes=classes)
    x.requires_grad_()
    step(x, labels, impl)  # compiles
    region_sums_multi([x, x[..., :8]], [labels, labels[..., :8]], terms=SHIPPED, impl=impl)
    with no_synchronisation():
        step(x, labels, impl)
        region_sums_multi([x, x[..., :8]], [labels, labels[..., :8]], terms=SHIPPED, impl=impl)
    with pytest.raises(RuntimeError, match="synchroniz"), no_synchronisation():
        x.sum().item()  # the guard itself


@by_kernel
@pytest.mark.parametrize("classes", [4, 64])
def test_a_cuda_graph_replays_it(impl: str, classes: int) -> None:
    require(impl)
    x, labels = inputs(16, 16, 16, classes=classes)
    x.requires_grad_()
    graph, (rows, grad) = capture(lambda: step(x, labels, impl))
    for seed in (1, 2):
        generator = torch.Generator(DEVICE).manual_seed(seed)
        with torch.no_grad():
            x.copy_(torch.randn(x.shape, generator=generator, device=DEVICE))
        labels.copy_(labels.roll(seed, -1))
        graph.replay()
        expected_rows, expected_grad = step(x, labels, impl)
        assert torch.equal(rows, expected_rows)
        assert torch.equal(grad, expected_grad)


@by_kernel
def test_labels_out_of_range_become_nan_or_raise_in_debug_mode(impl: str) -> None:
    require(impl)
    x, labels = inputs(16, 16, 16)
    labels[1, 2, 3, 4] = 2**40
    labels[1, 2, 3, 5] = -1
    assert region_sums(x, labels, impl=impl).rows.isnan().all()
    multi = region_sums_multi([x[:1], x], [labels[:1], labels], impl=impl)
    assert all(record.rows.isnan().all() for record in multi)
    with segloss_fast.debug(True):
        with pytest.raises(
            ValueError, match=r"got 2 other values, the first of which is 1\.09951e"
        ):
            region_sums(x, labels, impl=impl)
        good = labels.clamp(0, 3)
        graph = torch.cuda.CUDAGraph()
        with pytest.raises(RuntimeError, match="capture"), torch.cuda.graph(graph):
            region_sums(x, good, impl=impl)
    torch.cuda.synchronize()
    assert region_sums(x, good, impl=impl).rows.isfinite().all()  # the context lives


@by_kernel
def test_side_streams(impl: str) -> None:
    require(impl)
    x, labels = inputs(64, 64, 64)
    x.requires_grad_()
    rows, grad = step(x, labels, impl)
    streams = [torch.cuda.Stream() for _ in range(4)]
    found = []
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            doubled = (x * 2).detach().mul_(0.5).requires_grad_()  # work that must come first
            found.append(step(doubled, labels, impl))
    torch.cuda.synchronize()
    for other_rows, other_grad in found:
        assert torch.equal(other_rows, rows)
        assert torch.equal(other_grad, grad)


@by_kernel
@pytest.mark.parametrize("classes", [1, 4, 14, 105])
def test_bits_repeat(impl: str, classes: int) -> None:
    require(impl)
    x, labels = inputs(61, 67, 29, classes=classes)
    x.requires_grad_()
    options: dict[str, Any] = {"activation": "sigmoid"} if classes == 1 else {}
    first = step(x, labels, impl, terms=TERMS, gamma=2, **options)
    for _ in range(5):
        again = step(x, labels, impl, terms=TERMS, gamma=2, **options)
        assert torch.equal(again[0], first[0])
        assert torch.equal(again[1], first[1])


@by_kernel
@pytest.mark.parametrize("classes", [4, 105])
def test_every_output_is_written(impl: str, classes: int) -> None:
    """In deterministic mode torch fills fresh memory with NaN."""
    require(impl)
    x, labels = inputs(5, 17, 33, classes=classes)
    x.requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3, device=DEVICE).isnan().all()
        rows, grad = step(x, labels, impl, terms=TERMS, gamma=2)
    finally:
        torch.use_deterministic_algorithms(False)
    assert rows.isfinite().all()
    assert grad.isfinite().all()


@by_kernel
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=str)
@pytest.mark.parametrize(("classes", "side"), [(4, 128), (105, 64)])
def test_memory_is_independent_of_the_volume(
    impl: str, layout: torch.memory_format, classes: int, side: int
) -> None:
    require(impl)
    x, labels = inputs(side, side, side, classes=classes, dtype=torch.float16)
    x = x.to(memory_format=layout).requires_grad_()
    step(x, labels, impl)
    size = x.numel() * x.element_size()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    rows, grad = step(x, labels, impl)
    assert grad.stride() == x.stride()
    above = torch.cuda.max_memory_allocated() - before - size
    assert above < 2**20 + 0.01 * size
    assert rows.isfinite().all()


@by_kernel
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_into_one_graph(impl: str, backend: str) -> None:
    require(impl)
    x, labels = inputs(5, 6, 7)

    def loss(x: Tensor) -> Tensor:
        sums = region_sums(2 * x, labels, terms=["tp", "nll", "pred"], impl=impl)
        return (sums.tp / sums.pred + sums.nll).sum()

    value, grad = gradient(loss, x)
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    compiled_value, compiled_grad = gradient(compiled, x)
    torch._dynamo.reset()
    torch.testing.assert_close(compiled_value, value)
    torch.testing.assert_close(compiled_grad, grad)


@by_kernel
def test_opcheck(impl: str) -> None:
    require(impl)
    x, labels = inputs(3, 4, 5, classes=3)
    arguments = (labels, None, ["tp", "nll", "focal"], "softmax", "sigmoid", 2.0, None, impl)
    operators = torch.ops.segloss_fast
    torch.library.opcheck(operators.region_sums, (x.requires_grad_(), *arguments))
    rows = torch.randn(3, 2, 3, dtype=torch.float64, device=DEVICE)
    torch.library.opcheck(operators.region_sums_backward, (rows, x.detach(), *arguments))


@by_kernel
def test_autocast_does_not_change_it(impl: str) -> None:
    require(impl)
    x, labels = inputs(16, 16, 16, dtype=torch.bfloat16)
    x.requires_grad_()
    rows, grad = step(x, labels, impl)
    with torch.autocast(DEVICE, torch.bfloat16):
        other_rows, other_grad = step(x, labels, impl)
    assert grad.dtype == torch.bfloat16
    assert torch.equal(other_rows, rows)
    assert torch.equal(other_grad, grad)


@pytest.mark.parametrize("impl", ["native"])
def test_gradcheck_in_float64(impl: str) -> None:
    require(impl)
    x, labels = inputs(3, 5, dtype=torch.float64)
    for term in TERMS:
        assert torch.autograd.gradcheck(
            lambda x, term=term: region_sums(x, labels, terms=[term], gamma=1.7, impl=impl).rows,
            (x.requires_grad_(),),
            atol=1e-5,
            nondet_tol=0.0,
        ), term


@by_kernel
@pytest.mark.parametrize("classes", [2, 40])
def test_more_than_2_to_the_31_elements(impl: str, classes: int, free_memory: int) -> None:
    """The last voxels alone differ, so a wrapped offset gives a wrong sum."""
    require(impl)
    voxels = 2**31 // classes + 4097
    shape = (1, classes, voxels)
    if free_memory < 3 * 2 * classes * voxels + 2**30:
        pytest.skip("not enough memory on the device")
    x = torch.zeros(shape, dtype=torch.bfloat16, device=DEVICE)
    x[0, 1, -5:] = 50
    labels = torch.zeros((1, voxels), dtype=torch.uint8, device=DEVICE)
    labels[0, -3:] = 1
    x.requires_grad_()
    rows = region_sums(x, labels, impl=impl)
    assert rows.target[0, :2].tolist() == [voxels - 3, 3]
    assert abs(rows.tp[0, 1].item() - 3) < 1e-3
    (grad,) = torch.autograd.grad(rows.tp[0, 0] / voxels, x)
    exact = (1 - 1 / classes) / classes / voxels
    assert abs(grad[0, 0, -6].item() / exact - 1) < 0.01
    assert grad[0, :, -5:].abs().max().item() < 1e-3 * exact


def test_changing_sizes_do_not_compile_again() -> None:
    require("triton")

    def compiled() -> int:
        """How many variants of our kernels the process holds."""
        modules = [m for name, m in sys.modules.items() if "region_sums.triton_" in name]
        functions = {id(f): f for m in modules for f in vars(m).values()}.values()
        caches = [f.device_caches for f in functions if hasattr(f, "device_caches")]
        return sum(len(cache[0]) for by_device in caches for cache in by_device.values())

    def run(*size: int) -> None:
        x, labels = inputs(*size)
        step(x.requires_grad_(), labels, "triton")

    run(32, 32, 32)
    run(48, 40, 16)
    before = compiled()
    assert before > 0
    run(16, 16, 16)
    run(64, 64, 48)
    run(128, 128)
    run(4096)
    assert compiled() == before


@by_impl
def test_kernels_and_reference_train_alike(impl: str) -> None:
    """One more path from end to end: a loss module, on the device, against the CPU."""
    require(impl)
    x, labels = inputs(16, 16, 16)
    criterion = segloss_fast.DiceCELoss(class_weight=[1.0, 2.0, 3.0, 4.0], impl=impl).to(DEVICE)
    value, grad = gradient(lambda x: criterion(x, labels), x)
    there = segloss_fast.DiceCELoss(class_weight=[1.0, 2.0, 3.0, 4.0], impl="reference")
    true_value, true_grad = gradient(lambda x: there(x, labels.cpu()), x.double().cpu())
    assert abs(value.item() - true_value.item()) < 1e-6 * abs(true_value.item())
    assert relative_l2(grad.cpu(), true_grad) < 1e-6
