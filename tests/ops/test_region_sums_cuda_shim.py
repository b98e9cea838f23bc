"""The CUDA kernels of region_sums, run on the CPU against the reference in float64."""

from __future__ import annotations

import ctypes
import itertools

import pytest
import torch
from torch import Tensor

from segloss_fast._check import FLOATING, INTEGER
from segloss_fast.ops.region_sums.options import TERMS
from tests.helpers import relative_l2, relative_max
from tests.ops import definition
from tests.ops.one_class_cases import BAD_LABELS, BAD_VALUES, IGNORED, soft_mask, turned
from tests.ops.region_sums_cuda import (
    assert_close,
    backward,
    factors,
    forward,
    kernel,
    options_of,
    truth,
)
from tests.ops.samples import ACTIVATIONS, sample
from tests.sanitizers.test_sanitizers import runtime as runtime

pytestmark = [pytest.mark.shim, pytest.mark.usefixtures("shim")]

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
        found, true = kernel(x, target, weight, options), truth(x, target, weight, options)
        # The denominator of a softmax is the sum of 1024 numbers in either.
        assert_close(found, true, dtype, roundings=16)


def test_too_many_classes_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="20000 classes do not fit into the shared memory"):
        forward([torch.zeros(1, 20000, 2)], [torch.zeros(1, 2)], [], options_of(["tp"]))


@pytest.mark.parametrize("channels", [1, 5])
def test_weights_of_bytes(channels: int) -> None:
    x, target, _, _ = sample((2, 5, 3, 9), "softmax", "labels")
    weight = torch.randint(256, (2, channels, 3, 9), dtype=torch.uint8)
    for typed in (weight, weight > 99):
        ours = kernel(x, target, typed, options_of())
        numbers = kernel(x, target, typed.double(), options_of())
        for found, wanted in zip(ours, numbers, strict=True):
            assert torch.equal(found, wanted)


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


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_values_of_one_class(dtype: torch.dtype) -> None:
    case = soft_mask((37, 41), dtype)
    options = options_of(TERMS, "sigmoid", ignore_index=IGNORED)
    weight = torch.rand(case.values.shape, generator=torch.Generator().manual_seed(1)).double()
    plain = options_of(TERMS, "sigmoid")
    exact = truth(case.clean, case.values, weight * case.kept, plain)
    for target in (case.target, turned(case.target)):
        rows, grad = kernel(case.input, target, weight, options)
        assert_close((rows, grad), (exact[0], exact[1] * case.kept), rows.dtype)
        assert not grad[~case.kept].any()


@pytest.mark.parametrize(("bad", "shown"), BAD_VALUES)
def test_values_outside_of_zero_to_one_make_all_rows_nan(bad: float, shown: str) -> None:
    case = soft_mask((37, 41))
    target = case.values.float()
    target[1, 0, 20, 7], target[1, 0, 36, 40] = bad, 3
    for ignored, count in ((None, 2), (3, 1)):
        options = options_of(("tp", "nll"), "sigmoid", ignore_index=ignored)
        rows, invalid = forward([case.clean] * 2, [case.values.float(), target], [], options)
        assert rows.isnan().all()
        assert [invalid[0].item(), f"{invalid[1].item():.16g}"] == [count, shown]


@pytest.mark.parametrize(("dtype", "bad"), BAD_LABELS)
def test_labels_of_one_class(dtype: torch.dtype, bad: int) -> None:
    case = soft_mask((37, 41))
    labels = case.values[:, 0].round().to(dtype)
    options = options_of(TERMS, "sigmoid")
    assert_close(
        kernel(case.clean, labels, None, options),
        truth(case.clean, labels, None, options),
        torch.float64,
    )
    labels[1, 20, 7] = bad
    rows, invalid = forward([case.clean], [labels], [], options)
    assert rows.isnan().all()
    assert invalid.tolist() == [1, bad]
    options = options_of(TERMS, "sigmoid", ignore_index=bad)
    rows, invalid = forward([case.clean], [labels], [], options)
    assert rows.isfinite().all()
    assert invalid.tolist() == [0, 0]


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
        with pytest.raises(RuntimeError, match=r"must agree|must have the same"):
            forward([x, other], [target, target], [], options_of())
    with pytest.raises(RuntimeError, match="wrong shape of target"):
        forward([x], [target[:, :4]], [], options_of())
    with pytest.raises(RuntimeError, match="wrong rank of weight"):
        forward([x], [target], [target], options_of())
    with pytest.raises(RuntimeError, match="wrong shape of grad_rows"):
        backward(torch.zeros(1, 1, 3), [x], [target], [], options_of())
