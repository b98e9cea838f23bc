"""The CUDA kernels of region_sums, run on the CPU: ends of ranges, memory, order, sanitizers."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import pytest
import torch

from segloss_fast._check import FLOATING
from segloss_fast.ops.region_sums.options import TERMS
from tests.conftest import run_python
from tests.helpers import peak_allocation, relative_l2
from tests.ops import definition, region_sums_cuda
from tests.ops.region_sums_cuda import (
    assert_close,
    backward,
    forward,
    kernel,
    options_of,
    truth,
)
from tests.ops.samples import sample
from tests.ops.test_region_sums_limits import log_one_minus_softmax, saturated
from tests.sanitizers.test_sanitizers import runtime as runtime

pytestmark = [pytest.mark.shim, pytest.mark.usefixtures("shim")]

OVERLAP = ("tp", "pred", "target")


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (2, 3, 4, 0, 5)])
def test_no_voxels_and_no_items(shape: tuple[int, ...]) -> None:
    x, target = torch.randn(shape), torch.zeros((shape[0], *shape[2:]), dtype=torch.int64)
    rows, grad = kernel(x, target, None, options_of())
    assert rows.shape == (len(TERMS), *shape[:2])
    assert (rows == 0).all()
    assert grad.shape == shape


def test_all_voxels_ignored() -> None:
    x = torch.full((2, 3, 200), torch.nan)
    target = torch.full((2, 200), 255, dtype=torch.uint8)
    rows, grad = kernel(x, target, None, options_of(ignore_index=255))
    assert (rows == 0).all()
    assert (grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1e-3, 5.0, 30.0, 300.0, 1e4])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_saturated_logits(dtype: torch.dtype, scale: float, activation: str) -> None:
    x, labels = saturated(dtype, scale)
    terms = ("tp", "pred", "nll", "nll_neg", "nll_all", "focal", "focal_neg")
    rows, grad = kernel(x, labels, None, options_of(terms, activation))
    exact = definition.sums(
        x,
        definition.one_hot(labels, 4)[0],
        torch.ones(()).expand_as(x),
        activation=activation,
        ce_activation=activation,
        gamma=2.0,
        terms=terms,
    )
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(rows, exact, rtol=tolerance, atol=tolerance)
    assert grad.isfinite().all()
    if activation == "softmax":
        double = x.to(torch.float64, copy=True).requires_grad_()
        others = (1 - definition.one_hot(labels, 4)[0]) * log_one_minus_softmax(double)
        (-others).sum().backward()
        ones = torch.ones(1, 1, 4, dtype=torch.float64)
        (ours,) = backward(ones, [x], [labels], [], options_of(["nll_neg"]))
        assert double.grad is not None
        assert relative_l2(ours, double.grad) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_infinite_and_nan_logits(dtype: torch.dtype) -> None:
    x, labels = saturated(dtype, 2.0)
    labels %= 3
    x[:, 3] = -torch.inf
    terms = ("tp", "pred", "nll", "focal", "nll_neg", "focal_neg")
    rows, grad = kernel(x, labels, None, options_of(terms))
    without = x[:, :3].contiguous()
    expected, _ = truth(without, labels, None, options_of(terms))
    torch.testing.assert_close(rows[..., :3], expected, rtol=2e-6, atol=0)
    assert (rows[..., 3] == 0).all()
    assert (grad[:, 3] == 0).all()
    ones = torch.ones(len(terms), 1, 4, dtype=torch.float64)
    (grad,) = backward(ones, [x], [labels], [], options_of(terms))
    (smaller,) = backward(ones[..., :3], [without], [labels], [], options_of(terms))
    torch.testing.assert_close(grad[:, :3], smaller)

    one = torch.tensor([0.0, torch.inf, -torch.inf, torch.nan], dtype=dtype).view(1, 1, 4)
    label = torch.ones(1, 4, dtype=torch.uint8)
    assert kernel(one, label, None, options_of(["pred"], "sigmoid"))[0].isnan().all()
    finite = kernel(one[..., :3], label[:, :3], None, options_of(["pred"], "sigmoid"))[0]
    assert finite.item() == 1.5
    two = torch.tensor([[torch.inf, 0.0], [torch.nan, 0.0], [-torch.inf, -torch.inf]], dtype=dtype)
    for pair in two:
        for some in (("pred",), TERMS):
            rows, _ = kernel(pair.view(1, 2, 1), label[:, :1], None, options_of(some))
            assert rows[some.index("pred")].isnan().all()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "probabilities"])
def test_a_nan_has_a_nan_gradient(activation: str) -> None:
    x = torch.full((1, 2, 3), torch.nan)
    labels = torch.zeros(1, 3, dtype=torch.uint8)
    for terms in (("nll",), ("target", "nll")):
        assert kernel(x, labels, None, options_of(terms, activation))[1][:, 0].isnan().all()


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "probabilities"])
def test_powers_have_finite_gradients_at_the_ends(gamma: float, activation: str) -> None:
    one_hot = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).T[None]
    x = one_hot if activation == "probabilities" else 2000 * one_hot - 1000
    rows, grad = kernel(x, torch.tensor([[0, 1]]), None, options_of(TERMS, activation, gamma=gamma))
    assert rows.isfinite().all()
    assert grad.isfinite().all()


@pytest.mark.parametrize("what", ["input", "target", "weight"])
def test_offsets_past_2_to_the_31(what: str) -> None:
    """Strides beyond 2^31 elements, over memory of which only the used pages exist."""
    far = 2**31 + 5
    x = sample((1, 2, 3, 5), "softmax", "labels")[0].half()
    tensors = {"input": x, "target": torch.rand_like(x), "weight": torch.rand_like(x)}
    storage = torch.empty(far + 15, dtype=torch.float16)
    strided = storage.as_strided((1, 2, 3, 5), (2 * far, far, 5, 1))
    tensors[what] = strided.copy_(tensors[what])
    x, target, weight = tensors.values()
    options = options_of(OVERLAP)
    assert_close(kernel(x, target, weight, options), truth(x, target, weight, options), x.dtype)


def test_every_output_is_written() -> None:
    """In deterministic mode torch fills fresh memory with NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        for shape in [(2, 3, 5, 17, 33), (0, 3, 5), (2, 140, 37)]:
            x, target, _, _ = sample(shape, "softmax", "labels")
            rows, grad = kernel(x.float(), target, None, options_of())
            assert rows.isfinite().all()
            assert grad.isfinite().all()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("classes", [3, 40])
def test_bits_do_not_depend_on_the_run_or_on_the_order_of_threads(
    device: ctypes.CDLL, classes: int
) -> None:
    x, target, weight, _ = sample((2, classes, 9, 7, 13), "softmax", "dense")
    for kind, y in (("labels", x.argmax(1)), ("dense", target)):
        options = options_of(TERMS, "softmax", "softmax" if kind == "dense" else "sigmoid")
        expected = kernel(x.float(), y, weight, options)
        for seed in (0, 1, 2):
            device.segloss_shim_set_seed(seed)
            rows, grad = kernel(x.float(), y, weight, options)
            assert torch.equal(rows, expected[0]), kind
            assert torch.equal(grad, expected[1]), kind
        device.segloss_shim_set_seed(0)


def test_more_chunks_than_are_added_at_once(device: ctypes.CDLL) -> None:
    """More than 1152 of an item, and the flags of more than 1280, the last of them raised."""
    device.segloss_shim_set_multiprocessors(170)
    x, target, _, _ = sample((1, 2, 1300 * 128), "softmax", "labels")
    x, options = x.float(), options_of(OVERLAP)
    assert forward([x], [target], [], options)[1].tolist() == [0, 0]
    assert_close(kernel(x, target, None, options), truth(x, target, None, options), x.dtype)
    target[0, [-1, -130, 5]] = torch.tensor([9, 8, 7], dtype=target.dtype)
    for wanted in (7, 8, 9):
        rows, invalid = forward([x], [target], [], options)
        assert rows.isnan().all()
        assert invalid.tolist() == [10 - wanted, wanted]
        target[target == wanted] = 0


def test_memory_for_the_sums_is_small() -> None:
    """Half a megabyte and half a percent of the input for the partial sums; no more."""
    x, target, _, _ = sample((1, 105, 40, 40), "softmax", "labels")
    options = options_of((*OVERLAP, "nll"))
    size = x.numel() * x.element_size()
    assert peak_allocation(lambda: forward([x], [target], [], options)) < 2**20 + 0.01 * size


def test_each_element_is_moved_once(tmp_path: Path) -> None:
    """The floor: forward reads the input once, backward reads it once and writes its gradient."""
    traffic, (op,) = (
        Path(__file__).with_name("region_sums_traffic.cu"),
        [source for source in region_sums_cuda.SOURCES if source.stem == "op"],
    )
    library = region_sums_cuda.build_library(
        tmp_path / "traffic.so", sources=[traffic, op], library="segloss_fast_traffic"
    )
    torch.ops.load_library(str(library))
    operators = torch.ops.segloss_fast_traffic
    counters = [
        ctypes.c_ulonglong.in_dll(ctypes.CDLL(str(library)), f"segloss_{name}")
        for name in ("loaded", "stored")
    ]
    codes = region_sums_cuda.codes(options_of((*OVERLAP, "nll")))
    for classes, dtype, packed in itertools.product((2, 105), FLOATING, (False, True)):
        x, target, _, _ = sample((2, classes, 8, 5, 16), "softmax", "labels")
        x = x.to(dtype)
        x = x.to(memory_format=torch.channels_last_3d) if packed else x
        rows, _ = operators._region_sums([x], [target], [], *codes)
        moved = [counter.value for counter in counters]
        operators._region_sums_backward(rows, [x], [target], [], *codes)
        size = x.numel() * x.element_size()
        assert moved == [size, 0], (classes, dtype, packed)
        assert [counter.value for counter in counters] == [2 * size, size]
        for counter in counters:
            counter.value = 0


@pytest.mark.sanitizers
def test_under_sanitizers(tmp_path: Path, runtime: dict[str, str]) -> None:
    library = region_sums_cuda.build_library(tmp_path / "sanitized.so", sanitize=True)
    script = Path(__file__).parents[1] / "sanitizers/fuzz_region_sums_cuda.py"
    root = Path(__file__).parents[2]
    done = run_python(str(script), str(library), folder=root, **runtime, PYTHONPATH=str(root))
    assert done.returncode == 0, done.stdout
    assert "no finding" in done.stdout, done.stdout
