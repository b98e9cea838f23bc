"""The CUDA kernels of region_sums, run on the CPU against the reference in float64."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segloss_fast._check import FLOATING, INTEGER
from segloss_fast.ops.region_sums.options import TERMS
from tests.conftest import run_python
from tests.cuda_shim import build
from tests.helpers import peak_allocation, relative_l2, relative_max
from tests.ops import definition, region_sums_cuda
from tests.ops.region_sums_cuda import backward, factors, forward, kernel, options_of, truth
from tests.ops.test_region_sums import ACTIVATIONS, sample
from tests.ops.test_region_sums_limits import log_one_minus_softmax, saturated
from tests.sanitizers.test_sanitizers import runtime as runtime

pytestmark = pytest.mark.skipif(not build.available(), reason="no C++ compiler")

CLASSES = (1, 2, 3, 4, 5, 14, 32, 33, 105, 130, 300)
# The sets of terms with kernels of their own, and all of them.
OVERLAP = ("tp", "pred", "target")
SETS = [
    (OVERLAP, "softmax"),
    (("pred", "nll", "target", "tp"), "softmax"),
    (("target", "nll"), "softmax"),
    ((*OVERLAP, "focal"), "softmax"),
    ((*OVERLAP, "nll", "nll_neg"), "sigmoid"),
    ((*OVERLAP, "focal", "focal_neg"), "sigmoid"),
    (TERMS, "softmax"),
    (TERMS, "sigmoid"),
]


@pytest.fixture(scope="module", autouse=True)
def shim(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Build and load the operators; return what steers the order of threads and blocks."""
    library = region_sums_cuda.build_library(tmp_path_factory.mktemp("shim") / "region_sums.so")
    torch.ops.load_library(str(library))
    return ctypes.CDLL(str(library))


@pytest.fixture
def device(shim: ctypes.CDLL) -> Iterator[ctypes.CDLL]:
    """Restore the order of threads and the number of multiprocessors after the test."""
    yield shim
    shim.segloss_shim_set_seed(0)
    shim.segloss_shim_set_multiprocessors(3)


def assert_close(
    ours: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor], dtype: torch.dtype, note: object = ""
) -> None:
    """Assert rows as accurate as the CPU kernels', and a gradient of the input's dtype."""
    compute = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    for row, true_row in zip(ours[0], exact[0], strict=True):
        assert relative_max(row, true_row) < 10 * compute, note
    assert ours[1].dtype == dtype
    assert relative_l2(ours[1], exact[1]) < max(0.5 * torch.finfo(dtype).eps, 5 * compute), note


@pytest.mark.parametrize(("activation", "ce_activation"), ACTIVATIONS)
@pytest.mark.parametrize("kind", ["labels", "ignore", "dense"])
@pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0, 2.0, 3.5])
def test_every_term(activation: str, ce_activation: str, kind: str, gamma: float) -> None:
    x, target, weight, ignored = sample((2, 5, 3, 7, 11), activation, kind)
    options = options_of(TERMS, activation, ce_activation, gamma, ignored)
    rows, grad = kernel(x, target, weight, options)
    true_rows, true_grad = truth(x, target, weight, options)
    for name, row, true_row in zip(TERMS, rows, true_rows, strict=True):
        assert relative_max(row, true_row) < 2e-12, name
    assert relative_l2(grad, true_grad) < 2e-12


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize(("activation", "ce_activation"), ACTIVATIONS)
def test_every_term_alone(term: str, activation: str, ce_activation: str) -> None:
    for kind in ("ignore", "dense"):
        x, target, weight, ignored = sample((2, 3, 41), activation, kind)
        options = options_of([term], activation, ce_activation, 1.7, ignored)
        ours, exact = kernel(x, target, weight, options), truth(x, target, weight, options)
        assert relative_max(ours[0], exact[0]) < 2e-12, kind
        assert relative_l2(ours[1], exact[1]) < 2e-12, kind


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_classes_and_dtypes(classes: int, dtype: torch.dtype) -> None:
    """Every variant on a volume of odd size, and on one with aligned rows; all kinds of weights."""
    sizes = itertools.cycle([(3, 5, 7), (2, 8, 8)])
    batch = 1 if classes > 100 else 2
    for (terms, activation), kind in zip(SETS, itertools.cycle(["labels", "ignore"])):
        if classes == 1 and activation == "softmax":
            continue
        x, target, weight, ignored = sample((batch, classes, *next(sizes)), activation, kind)
        x = x.to(dtype)
        options = options_of(terms, activation, ignore_index=ignored)
        weight = None if weight is None else weight.abs()
        assert_close(
            kernel(x, target, weight, options), truth(x, target, weight, options), dtype, terms
        )
    x, target, weight, _ = sample((batch, classes, 2, 8, 8), "sigmoid", "dense")
    assert weight is not None
    x, weight, options = x.to(dtype), weight.abs().to(dtype), options_of(TERMS, "sigmoid")
    assert_close(kernel(x, target, weight, options), truth(x, target, weight, options), dtype)


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "transposed", "expanded", "shifted"])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("classes", [3, 37])
def test_layouts(layout: str, dtype: torch.dtype, classes: int) -> None:
    x, target, _, _ = sample((2, classes, 3, 6, 10), "softmax", "labels")
    dense = torch.rand_like(x)
    tensors = {"x": x.to(dtype), "target": target, "dense": dense, "weight": dense + 1}

    def lay_out(value: Tensor) -> Tensor:
        if layout == "channels_last":
            return value.movedim(1, -1).contiguous().movedim(-1, 1)
        if layout == "sliced":
            return torch.stack([value, 0 * value + 77], -1).flatten(-2)[..., ::2]
        if layout == "transposed":
            return value.transpose(-1, -3).contiguous().transpose(-1, -3)
        if layout == "expanded":
            return value[..., :1].expand_as(value)
        memory = torch.full((value.numel() + 1,), 77, dtype=value.dtype)
        return memory[1:].view(value.shape).copy_(value)  # rows that are not aligned

    for what in tensors:
        target_name = "dense" if what in ("dense", "weight") else "target"
        values = {**tensors, what: lay_out(tensors[what])}
        weight = values["weight"] if what == "weight" else None
        options = options_of((*OVERLAP, "nll"))
        ours = kernel(values["x"], values[target_name], weight, options)
        assert ours[1].stride() == torch.empty_like(values["x"]).stride()
        assert_close(ours, truth(values["x"], values[target_name], weight, options), dtype, what)


@pytest.mark.parametrize("size", [(1,), (31,), (64,), (127,), (129,), (4097,), (17, 61)])
@pytest.mark.parametrize("multiprocessors", [1, 132])
def test_tiles_and_chunks(device: ctypes.CDLL, size: tuple[int, ...], multiprocessors: int) -> None:
    device.segloss_shim_set_multiprocessors(multiprocessors)
    for classes in (2, 33):
        x, target, _, _ = sample((2, classes, *size), "softmax", "labels")
        options = options_of((*OVERLAP, "nll"))
        assert_close(kernel(x, target, None, options), truth(x, target, None, options), x.dtype)


def test_a_thousand_classes() -> None:
    for dtype, kind in itertools.product([torch.float32, torch.float64], ["labels", "dense"]):
        x, target, weight, _ = sample((1, 1024, 19), "softmax", kind)
        options = options_of(TERMS, "softmax", "sigmoid")
        x, weight = x.to(dtype), None if weight is None else weight.abs()
        assert_close(kernel(x, target, weight, options), truth(x, target, weight, options), dtype)


def test_too_many_classes_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="20000 classes do not fit into the shared memory"):
        forward([torch.zeros(1, 20000, 2)], [torch.zeros(1, 2)], [], options_of(["tp"]))


@pytest.mark.parametrize("dtype", [*INTEGER, *FLOATING], ids=str)
def test_labels_of_any_dtype(dtype: torch.dtype) -> None:
    classes = 2 if dtype == torch.bool else 5
    x, target, _, _ = sample((2, classes, 3, 5, 9), "softmax", "labels")
    options = options_of()
    rows = forward([x], [target], [], options)[0]
    assert torch.equal(forward([x], [target.to(dtype)], [], options)[0], rows)
    ignored = 1 if dtype == torch.bool else 100
    target[0, 0] = ignored
    for index in (ignored, ignored + 2**40, -(2**63)):
        options = options_of(ignore_index=index)
        typed = forward([x], [target.to(dtype)], [], options)
        plain = forward([x], [target], [], options)
        assert torch.equal(typed[1], plain[1])
        assert torch.equal(typed[0].nan_to_num(), plain[0].nan_to_num())


def test_one_class_counts_labels_that_are_not_zero() -> None:
    x, _, _, _ = sample((2, 1, 4, 5), "sigmoid", "labels")
    labels = torch.tensor([0, 1, 7, 255] * 10, dtype=torch.uint8).view(2, 4, 5)
    options = options_of(TERMS, "sigmoid", ignore_index=255)
    ours, exact = kernel(x, labels, None, options), truth(x, labels, None, options)
    assert_close(ours, exact, x.dtype)


@pytest.mark.parametrize("dtype", [*INTEGER, *FLOATING], ids=str)
def test_dense_targets_of_any_dtype(dtype: torch.dtype) -> None:
    x, labels, _, _ = sample((2, 3, 4, 5), "sigmoid", "labels")
    values = definition.one_hot(labels, 3)[0]
    options = options_of(TERMS, "sigmoid")
    rows = forward([x], [values], [], options)[0]
    assert torch.equal(forward([x], [values.to(dtype)], [], options)[0], rows)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.uint8, 255),
        (torch.int8, -128),
        (torch.int32, -1),
        (torch.int64, 2**32),
        (torch.int64, -(2**63)),
        (torch.float32, 0.5),
        (torch.float32, torch.nan),
        (torch.float64, torch.inf),
        (torch.float16, -torch.inf),
    ],
)
def test_labels_out_of_range_make_all_rows_nan(dtype: torch.dtype, value: float) -> None:
    x, target, _, _ = sample((2, 3, 700), "softmax", "labels")
    bad = target.to(dtype, copy=True)
    bad[0, 650] = value
    bad[1, 3] = 7
    inputs, targets = [x, x, x[:1]], [target.to(dtype), bad, bad[1:]]
    options = options_of()
    rows, invalid = forward(inputs, targets, [], options)
    assert rows.isnan().all()
    assert invalid[0] == 3
    torch.testing.assert_close(invalid[1].item(), float(value), equal_nan=True)
    (*_, grad) = backward(torch.ones_like(rows), inputs, targets, [], options)
    assert grad.isfinite().all()


@pytest.mark.parametrize("count", [2, 8, 9, 17])
def test_levels_equal_single_calls(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, targets, weights = [], [], []
    for i in range(count):
        size = [(9, 8, 7), (5, 33), (300,), (1,), (0, 3)][i % 5]
        x, target, _, _ = sample((1 + i % 3, 6, *size), "softmax", "labels", i)
        inputs.append(x.float().movedim(1, -1).contiguous().movedim(-1, 1) if i % 2 else x.float())
        targets.append(target)
        weights.append(torch.rand((x.shape[0], 1, *size), generator=generator))
    options = options_of(TERMS, "softmax", "sigmoid")
    rows, invalid = forward(inputs, targets, weights, options)
    coefficients = factors(rows)
    grads = backward(coefficients, inputs, targets, weights, options)
    assert (invalid == 0).all()
    first = 0
    for x, target, weight, grad in zip(inputs, targets, weights, grads, strict=True):
        items = slice(first, first + x.shape[0])
        first += x.shape[0]
        exact, _ = forward([x], [target], [weight], options)
        torch.testing.assert_close(rows[:, items], exact, rtol=1e-6, atol=1e-6)
        (alone,) = backward(coefficients[:, items], [x], [target], [weight], options)
        assert torch.equal(grad, alone)


def test_levels_that_disagree_are_an_error() -> None:
    x, target, _, _ = sample((1, 3, 5), "softmax", "labels")
    for other in (x[:, :2], x.float()):
        with pytest.raises(RuntimeError, match="must agree"):
            forward([x, other], [target, target], [], options_of())
    with pytest.raises(RuntimeError, match="wrong shape of target"):
        forward([x], [target[:, :4]], [], options_of())
    with pytest.raises(RuntimeError, match="wrong rank of weight"):
        forward([x], [target], [target], options_of())
    with pytest.raises(RuntimeError, match="wrong shape of grad_rows"):
        backward(torch.zeros(1, 1, 3), [x], [target], [], options_of())


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


def test_memory_for_the_sums_is_small() -> None:
    """Half a megabyte and half a percent of the input for the partial sums; no more."""
    x, target, _, _ = sample((1, 105, 40, 40), "softmax", "labels")
    options = options_of((*OVERLAP, "nll"))
    size = x.numel() * x.element_size()
    assert peak_allocation(lambda: forward([x], [target], [], options)) < 2**20 + 0.01 * size


def test_each_element_is_moved_once(tmp_path: Path) -> None:
    """The floor: forward reads the input once, backward reads it once and writes its gradient."""
    traffic, (binding,) = (
        Path(__file__).with_name("region_sums_traffic.cu"),
        [source for source in region_sums_cuda.SOURCES if source.stem == "binding"],
    )
    library = region_sums_cuda.build_library(
        tmp_path / "traffic.so", sources=[traffic, binding], library="segloss_fast_traffic"
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
        rows, _ = operators._region_sums_cuda([x], [target], [], *codes)
        moved = [counter.value for counter in counters]
        operators._region_sums_cuda_backward(rows, [x], [target], [], *codes)
        size = x.numel() * x.element_size()
        assert moved == [size, 0], (classes, dtype, packed)
        assert [counter.value for counter in counters] == [2 * size, size]
        for counter in counters:
            counter.value = 0


@pytest.mark.install
def test_under_sanitizers(tmp_path: Path, runtime: dict[str, str]) -> None:
    library = region_sums_cuda.build_library(tmp_path / "sanitized.so", sanitize=True)
    script = Path(__file__).parents[1] / "sanitizers/fuzz_region_sums_cuda.py"
    root = Path(__file__).parents[2]
    done = run_python(str(script), str(library), folder=root, **runtime, PYTHONPATH=str(root))
    assert done.returncode == 0, done.stdout
    assert "no finding" in done.stdout, done.stdout
