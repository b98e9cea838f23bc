"""The CUDA kernels of lovasz, run on the CPU against the reference in float64."""

from __future__ import annotations

import ctypes

import pytest
import torch
from torch import Tensor

from segloss_fast._check import FLOATING, INTEGER
from segloss_fast.ops.lovasz import bins, reference
from segloss_fast.ops.lovasz.options import Options
from tests.helpers import relative_l2, relative_max
from tests.ops import lovasz_cuda as cuda
from tests.ops.lovasz_cuda import Result, options_of, sample
from tests.ops.lovasz_samples import ACTIVATIONS, KINDS
from tests.ops.one_class_cases import BAD_LABELS, BAD_VALUES, IGNORED, soft_mask, turned

pytestmark = [pytest.mark.shim, pytest.mark.usefixtures("lovasz_shim")]
by_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


def epsilon(dtype: torch.dtype) -> float:
    """Of what is computed for an input of this type."""
    return torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps


def assert_counts(counts: Tensor, exact: Tensor, options: Options) -> None:
    """Assert equal numbers, and offsets of 8 bits."""
    assert torch.equal(counts[0], exact[0])
    near, far, point = bins.bounds(options, counts.device, torch.float64)
    error = torch.maximum((point + near).abs(), (point + far).abs())
    # Half a step of 2^-8 of the bin, and what 1e-6 of an error is there.
    apart = 128.5 + 2**16 * 1e-6 * (error / (far - near).abs()).nan_to_num(0)  # 0 where m is 0
    assert ((counts[1] - exact[1]).abs() <= apart * exact[0]).all()


def assert_result(ours: Result, exact: Result, dtype: torch.dtype, loss: float) -> None:
    compute = epsilon(dtype)
    assert relative_max(ours.loss, exact.loss) < loss
    assert torch.equal(ours.rows[0], exact.rows[0].double())
    assert relative_max(ours.rows[1], exact.rows[1]) < 10 * compute
    assert ours.grad.dtype == dtype
    assert relative_l2(ours.grad, exact.grad) < max(0.5 * torch.finfo(dtype).eps, 5 * compute)


def check_histogram(x: Tensor, target: Tensor, options: Options) -> Result:
    ours, exact = cuda.histogram(x, target, options), cuda.truth(x, target, options, "histogram")
    assert ours.counts is not None
    assert exact.counts is not None
    assert_counts(ours.counts, exact.counts, options)
    # An offset of 16 bits stands for 256 of them, 128 and a half away from the first; and a bin is
    # 2^-bits of the error wide.
    offsets = 128.5 * 2.0 ** -(16 + options.bits)
    assert_result(ours, exact, x.dtype, offsets + epsilon(x.dtype))
    return ours


def check_sort(x: Tensor, target: Tensor, options: Options) -> Result:
    ours, exact = cuda.sort(x, target, options), cuda.truth(x, target, options, "sort")
    assert_result(ours, exact, x.dtype, 5 * epsilon(x.dtype))
    assert torch.equal(ours.rows[2], exact.rows[2].double())
    assert ours.g is not None
    assert ours.g.shape == x.shape
    return ours


@by_activation
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("method", ["histogram", "sort"])
def test_equals_the_reference(activation: str, kind: str, per_image: bool, method: str) -> None:
    check = check_histogram if method == "histogram" else check_sort
    for dtype, size in ((torch.float32, (4, 6, 8)), (torch.float64, (5, 7, 9))):
        x, target, ignored = sample((2, 3, *size), kind, activation, dtype)
        options = options_of(activation, per_image=per_image, ignore_index=ignored)
        check(x, target, options)


@pytest.mark.parametrize("classes", [1, 2, 4, 5, 14, 15, 33])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_classes_and_dtypes(classes: int, dtype: torch.dtype) -> None:
    for activation in ACTIVATIONS:
        if classes == 1 and activation == "softmax":
            continue
        size = (300,) if activation == "softmax" else (7, 9)
        x, target, ignored = sample((2, classes, *size), "ignore", activation, dtype)
        options = options_of(activation, ignore_index=ignored)
        check_histogram(x, target, options)
        check_sort(x, target, options)


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "transposed", "shifted"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("classes", [3, 18])
def test_layouts(layout: str, dtype: torch.dtype, classes: int) -> None:
    x, target, _ = sample((2, classes, 3, 6, 8), "labels", "softmax", dtype)

    def lay_out(value: Tensor) -> Tensor:
        if layout == "channels_last":
            return value.movedim(1, -1).contiguous().movedim(-1, 1)
        if layout == "sliced":
            return torch.stack([value, 0 * value + 7], -1).flatten(-2)[..., ::2]
        if layout == "transposed":
            return value.transpose(-1, -3).contiguous().transpose(-1, -3)
        memory = torch.full((value.numel() + 1,), 7, dtype=value.dtype)
        return memory[1:].view(value.shape).copy_(value)  # rows that are not aligned

    options = options_of()
    for activation in ("softmax", "sigmoid"):
        plain = cuda.histogram(x, target, options_of(activation))
        moved = cuda.histogram(lay_out(x), lay_out(target), options_of(activation))
        assert moved.grad.stride() == torch.empty_like(lay_out(x)).stride()
        assert moved.counts is not None
        assert plain.counts is not None
        assert torch.equal(moved.counts, plain.counts)
        assert torch.equal(moved.grad, plain.grad)
    check_sort(lay_out(x), lay_out(target), options)


@pytest.mark.parametrize("dtype", [*INTEGER, *FLOATING], ids=str)
def test_labels_of_any_dtype(dtype: torch.dtype) -> None:
    classes = 2 if dtype == torch.bool else 5
    x, target, _ = sample((2, classes, 60), "labels")
    ignored = 1 if dtype == torch.bool else 100
    target[0, ::3] = ignored
    for index in (ignored, None):
        options = options_of(ignore_index=index)
        counts, rows, invalid = cuda.count(x, target, options)
        found = cuda.count(x, target.to(dtype), options)
        assert torch.equal(found[0], counts)
        assert torch.equal(found[1], rows)
        assert torch.equal(found[2], invalid)
    wide = torch.rand(2, classes, 60)
    values = (wide > 0.5) if dtype in INTEGER else wide
    exact, *_ = reference.count(x, values.to(dtype), options)
    assert torch.equal(cuda.count(x, values.to(dtype), options)[0][0], exact[0])


@pytest.mark.parametrize("activation", ["sigmoid", "hinge"])
@pytest.mark.parametrize("method", ["histogram", "sort"])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_values_of_one_class(activation: str, method: str, dtype: torch.dtype) -> None:
    """They are the labels of what is above one half."""
    case = soft_mask((37, 41), dtype)
    labels = torch.where(case.kept, (case.values > 0.5).long(), IGNORED)[:, 0]
    options = options_of(activation, ignore_index=IGNORED)
    run = cuda.sort if method == "sort" else cuda.histogram
    wanted = run(case.input, labels, options)
    for target in (case.target, turned(case.target)):
        found = run(case.input, target, options)
        assert torch.equal(found.loss, wanted.loss)
        assert torch.equal(found.grad, wanted.grad)
        assert not found.grad[~case.kept].any()
    for bad, shown in BAD_VALUES:
        target = case.values.to(dtype)
        target[1, 0, 20, 7], target[1, 0, 36, 40] = bad, 3
        for ignored, number in ((None, 2), (3, 1)):
            _, _, invalid = cuda.count(
                case.clean, target, options_of(activation, ignore_index=ignored)
            )
            assert [invalid[0].item(), f"{invalid[1].item():.16g}"] == [number, shown]


@pytest.mark.parametrize(("dtype", "bad"), BAD_LABELS)
def test_labels_of_one_class(dtype: torch.dtype, bad: int) -> None:
    case = soft_mask((37, 41))
    labels = case.values[:, 0].round().to(dtype)
    counts, _, invalid = cuda.count(case.clean, labels, options_of("sigmoid"))
    assert counts[0].sum(-1).tolist() == [[[int((labels == c).sum()) for c in (0, 1)]]]
    assert invalid.tolist() == [0, 0]
    labels[1, 20, 7] = bad
    assert cuda.count(case.clean, labels, options_of("sigmoid"))[2].tolist() == [1, bad]
    options = options_of("sigmoid", ignore_index=bad)
    assert cuda.count(case.clean, labels, options)[2].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (torch.uint8, 255),
        (torch.int8, -128),
        (torch.int64, 2**32),
        (torch.int64, -(2**63)),
        (torch.float32, 0.5),
        (torch.float32, torch.nan),
    ],
)
@pytest.mark.parametrize("method", ["histogram", "sort"])
def test_labels_out_of_range(dtype: torch.dtype, value: float, method: str) -> None:
    x, target, _ = sample((2, 3, 700), "labels", dtype=torch.float32)
    bad = target.to(dtype, copy=True)
    bad[0, 650] = value
    bad[1, 3] = 7
    options = options_of(cross_entropy=False)
    if method == "histogram":
        counts, _, invalid = cuda.count(x, bad, options)
        target[0, 650] = target[1, 3] = 9  # background of all classes
        assert torch.equal(counts, cuda.count(x, target, options)[0])
        result = cuda.histogram(x, bad, options)
    else:
        _, _, invalid, _ = torch.ops.segloss_fast_lovasz_shim._lovasz_sort(
            x, bad, 0, False, None, False, False
        )
        result = cuda.sort(x, bad, options)
    assert invalid[0] == 2
    torch.testing.assert_close(invalid[1].item(), float(value), equal_nan=True)
    assert result.grad.isfinite().all()


@by_activation
@pytest.mark.parametrize("seed", [0, 1])
def test_scan(lovasz_device: ctypes.CDLL, activation: str, seed: int) -> None:
    """Counts of all sizes, as a network leaves them: with empty bins, and without foreground."""
    lovasz_device.segloss_shim_set_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    for octaves, bits in ((9, 1), (12, 2), (16, 5)):
        options = options_of(activation, octaves, bits, per_image=True)
        shape = (2, 3, 2, 4 * octaves << bits)
        scale = 10 ** (9 * torch.rand(shape, generator=generator, dtype=torch.float64))
        number = (scale * (torch.rand(shape, generator=generator) < 0.5)).long()
        number[0, 0, 1] = 0
        number[1, 1] = 0
        number[1, 2, :, 4:] = 0
        part = torch.rand(shape, generator=generator, dtype=torch.float64)
        counts = torch.stack([number, (number * part * 65535).long()])
        rows = torch.zeros(2, 2, 3, dtype=torch.float64)
        rows[0, 0, 2] = 3
        ours = cuda.scan(counts, rows, options)
        exact = reference.scan(counts, rows, options, torch.float64)
        torch.testing.assert_close(ours[0], exact[0], rtol=1e-12, atol=0, equal_nan=True)
        # g_b has n_f (1 / U - g_f) / n_b, a difference whose rounding is one of g_f.
        table = exact[1].nan_to_num(-1)
        rounding = number[:, :, 1] / number[:, :, 0].clamp_min(1) * table[:, :, 1]
        bound = 1e-12 * table.abs()
        bound[:, :, 0] += 4 * torch.finfo(torch.float64).eps * rounding.abs()
        assert ((ours[1].nan_to_num(-1) - table).abs() <= bound).all()
        narrow = cuda.scan(counts, rows, options, double=False)[1]
        assert torch.equal(narrow.nan_to_num(-1), ours[1].float().nan_to_num(-1))


def test_malformed_calls_are_errors() -> None:
    x, target, _ = sample((1, 3, 5), "labels")
    options = options_of()
    counts, rows, _ = cuda.count(x, target, options)
    _, table = cuda.scan(counts, rows, options)
    for call, message in (
        (lambda: cuda.count(x[0], target, options), "input must be"),
        (lambda: cuda.count(x, target[:, :4], options), "wrong shape of target"),
        (lambda: cuda.count(x.long(), target, options), "floating point"),
        (lambda: cuda.count(x, target, options_of(octaves=0)), "no such bins"),
        (lambda: cuda.count(x, target, options_of(octaves=16, bits=12)), "no such bins"),
        (lambda: cuda.scan(counts[:, :, :, :, 1:], rows, options), "counts must be"),
        (lambda: cuda.scan(counts, rows[:1], options), "rows must be"),
        (lambda: cuda.backward(table[..., 1:], None, x, target, options), "coefficients must be"),
        (lambda: cuda.backward(table, rows[0, :, 1:], x, target, options), r"must be \[I, C\]"),
        (lambda: cuda.backward(table.expand(2, -1, -1, -1), None, x, target, options), "images"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
