"""The fused loops of region_sums for a few terms, beside the kernel that serves any problem.

Asking for one more term takes the latter: both must agree, at every edge between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from types import ModuleType

import pytest
import torch
from torch import Tensor

from segloss_fast import region_sums
from segloss_fast._check import FLOATING, INTEGER
from tests.helpers import relative_l2
from tests.ops import definition
from tests.ops.fused_samples import LEVELS, classes_of, logits, take_level
from tests.suite.tiers import few

TERMS = ("tp", "pred", "target", "nll", "weight")
KINDS = {
    "both": TERMS,
    "overlap": ("pred", "tp"),
    "cross-entropy": ("nll", "weight"),
    "overlap and focal": ("tp", "focal", "pred", "target"),
    "focal": ("focal",),
}
CLASSES = few((4, 5, 2, 3, 14, 64), test=2)
# A vector and a block of either width, a chunk; one less, one more.
LENGTHS = (1, 7, 8, 15, 16, 17, 255, 256, 257, 511, 512, 513, 527, 1024, 4095, 4097, 8211)
LENGTH = 1103  # some blocks, and voxels left
NO_CLASS, IGNORED = 77, 200


@pytest.fixture(autouse=True, params=few(LEVELS, test=1))
def every_level(request: pytest.FixtureRequest, cpu_capability: ModuleType) -> None:
    """Each instruction set of this machine."""
    take_level(cpu_capability, request.param)


def run(
    x: Tensor,
    labels: Tensor,
    terms: Iterable[str] = TERMS,
    *,
    more: tuple[str, ...] = (),
    ignore_index: int | None = None,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return the rows of the terms, and the gradient of a sum of them that weighs each anew."""
    terms = tuple(terms)
    x = x.detach().requires_grad_()
    rows = region_sums(
        x, labels, terms=(*terms, *more), gamma=2.0, ignore_index=ignore_index, impl="native"
    ).rows
    incoming = torch.zeros_like(rows)
    kept = incoming[: len(terms)]
    kept.copy_(scale * torch.linspace(-1, 2, kept.numel()).view_as(kept))
    (grad,) = torch.autograd.grad(rows, x, incoming)
    return rows.detach()[: len(terms)], grad


def check_agreement(
    x: Tensor, labels: Tensor, terms: Iterable[str] = TERMS, **options: float
) -> None:
    """Assert that both kernels give the same, where a NaN is in either, too."""
    ours = run(x, labels, terms, **options)  # type: ignore[arg-type]
    theirs = run(x, labels, terms, more=("pred_sq",), **options)  # type: ignore[arg-type]
    # Of the other one, which adds up to 128 voxels in float32 where this adds 32.
    torch.testing.assert_close(ours[0], theirs[0], rtol=2e-6, atol=1e-6, equal_nan=True)
    assert torch.equal(ours[1].isnan(), theirs[1].isnan())
    # Of many classes that cancel, either is a rounding or two off what float64 gives.
    exact = run(x.double(), labels, terms, more=("pred_sq",), **options)[1]  # type: ignore[arg-type]
    finite = exact.isfinite() & ours[1].isfinite()
    exact = exact.where(finite, 0)
    errors = [relative_l2(grad.where(finite, 0), exact) for grad in (ours[1], theirs[1])]
    tolerance = 5e-7 if x.dtype == torch.float32 else torch.finfo(x.dtype).eps
    assert errors[0] < max(tolerance, 3 * errors[1])


def eager_gradient(x: Tensor, values: Tensor, terms: tuple[str, ...]) -> Tensor:
    """Return the gradient of the same weighted sum, in PyTorch and the input's dtype."""
    x = x.detach().requires_grad_()
    p, log_p = x.softmax(1), x.log_softmax(1)
    cost = -values * log_p
    maps = {"tp": p * values, "pred": p, "nll": cost, "focal": (1 - p) ** 2 * cost}
    none = torch.zeros_like(x)
    sums = torch.stack([maps.get(name, none).flatten(2).sum(2) for name in terms])
    weights = torch.linspace(-1, 2, sums.numel()).view_as(sums)
    return torch.autograd.grad(sums, x, weights.to(x.dtype))[0]


@lru_cache(200)  # until each instruction set has asked
def of_float64(classes: int, kind: str, scale: float) -> tuple[Tensor, Tensor, float]:
    """Return the rows and the gradient, and how far off the gradient of plain PyTorch is."""
    terms = KINDS[kind]
    x = logits(2, classes, LENGTH, scale=scale)
    labels = classes_of(x)
    values, counted = definition.one_hot(labels, x.shape[1])
    options = {"activation": "softmax", "ce_activation": "softmax", "gamma": 2.0}
    truth = definition.sums(x, values, counted.expand_as(x), terms=terms, **options)  # type: ignore[arg-type]
    exact = eager_gradient(x.double(), values, terms)
    return truth, exact, relative_l2(eager_gradient(x, values.float(), terms), exact)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", few(KINDS, test=5))
@pytest.mark.parametrize("scale", few((3.0, 0.0, 1e-3, 40.0, 1e4), test=5))
def test_values_and_gradients_are_those_of_float64(classes: int, kind: str, scale: float) -> None:
    x = logits(2, classes, LENGTH, scale=scale)
    rows, grad = run(x, classes_of(x), KINDS[kind])
    truth, exact, eager = of_float64(classes, kind, scale)
    torch.testing.assert_close(rows, truth, rtol=3e-7, atol=1e-6)
    # Of the nearly certain voxels plain PyTorch loses as many digits, one or two roundings apart.
    assert relative_l2(grad, exact) < max(5e-7, 3 * eager)


@pytest.mark.parametrize("classes", CLASSES)
def test_it_is_taken(classes: int) -> None:
    """Its sums are rounded in another order, which shows in the last bits."""
    x = logits(1, classes, 4096)
    rows, grad = run(x, classes_of(x))
    other_rows, other_grad = run(x, classes_of(x), more=("pred_sq",))
    assert not torch.equal(rows, other_rows)
    assert not torch.equal(grad, other_grad)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", few(KINDS, test=5))
def test_any_length(classes: int, kind: str) -> None:
    for length in LENGTHS:
        x = logits(2, classes, length)
        check_agreement(x, classes_of(x), KINDS[kind])


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", [torch.bool, *INTEGER, *FLOATING], ids=str)
def test_any_label_dtype(classes: int, dtype: torch.dtype) -> None:
    x = logits(2, classes, 7, 157)
    labels = classes_of(x) % (2 if dtype == torch.bool else classes)
    expected = run(x, labels.long())
    for found, truth in zip(run(x, labels.to(dtype)), expected, strict=True):
        assert torch.equal(found, truth)
    # Every second label of a row, which no loop reads in place.
    strided = torch.stack([labels, labels], -1).to(dtype)[..., 0]
    for found, truth in zip(run(x, strided), expected, strict=True):
        assert torch.equal(found, truth)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("where", [[0], [255], [256], [511], [700], [1530], range(1531)], ids=str)
def test_ignored_labels(classes: int, where: Iterable[int]) -> None:
    x = logits(2, classes, 1531)
    labels, places = classes_of(x), torch.tensor(list(where))
    labels[1, places] = IGNORED
    x[1, 1, places] = torch.nan  # what is ignored counts as 0
    check_agreement(x, labels, ignore_index=IGNORED)
    kept = torch.ones(1531, dtype=torch.bool)
    kept[places] = False
    rows, grad = run(x, labels, ignore_index=IGNORED)
    assert (grad[1, :, places] == 0).all()
    without = region_sums(x[1:, :, kept], labels[1:, kept], terms=TERMS, impl="native").rows
    torch.testing.assert_close(rows[:, 1:], without, rtol=5e-7, atol=1e-6)


@pytest.mark.parametrize("ignored", [0, 1, 3, 4, -1, 255, 2**40])
def test_any_ignore_index(ignored: int) -> None:
    """A class may be the ignored one, and a label that the dtype has not."""
    x = logits(2, 4, 1531)
    for dtype in (torch.uint8, torch.int8, torch.int64):
        check_agreement(x, classes_of(x, dtype), ignore_index=ignored)


@pytest.mark.parametrize("dtype", few((torch.uint8, torch.int64, *INTEGER[1:4]), test=5), ids=str)
@pytest.mark.parametrize("place", [0, 300, 511, 1530])
def test_invalid_labels_are_counted(dtype: torch.dtype, place: int) -> None:
    x = logits(2, 3, 1531)
    least, most = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    for wrong in {3, NO_CLASS, most, least, *((2**32, 2**32 + 1) if most > 2**32 else ())} - {0}:
        labels = classes_of(x, dtype)
        labels[1, place] = wrong
        named = re.escape(str(wrong if abs(wrong) <= 2**33 else float(wrong)))
        with pytest.raises(ValueError, match=f"got 1 other .* {named}$"):
            region_sums(x, labels, terms=TERMS, impl="native")


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", few(KINDS, test=5))
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 3e38, -3e38], ids=str)
def test_logits_that_are_not_finite(classes: int, kind: str, value: float) -> None:
    for place, among in ((0, 0), (300, 1), (1530, classes - 1)):
        x = logits(2, classes, 1531)
        x[1, among, place] = value
        check_agreement(x, classes_of(x), KINDS[kind])
        x[1, :, place] = value
        check_agreement(x, classes_of(x), KINDS[kind])
    check_agreement(torch.full_like(x, value), classes_of(x), KINDS[kind])


def test_a_class_masked_everywhere() -> None:
    x = logits(1, 4, 1600)
    x[:, 2] = -torch.inf
    labels = classes_of(x) % 2
    rows, grad = run(x, labels)
    assert (rows[:4, 0, 2] == 0).all()
    assert (grad[:, 2] == 0).all()
    without = [0, 1, 3]
    check_agreement(x, labels)
    expected = region_sums(x[:, without], labels, terms=TERMS, impl="native").rows
    torch.testing.assert_close(rows[..., without], expected, rtol=5e-7, atol=1e-6)


@pytest.mark.parametrize("scale", [torch.inf, torch.nan, 1e20, 1e35, 1e38, 1e300], ids=str)
def test_incoming_gradients_that_are_large_or_not_finite(scale: float) -> None:
    x = logits(2, 4, 1531)
    ours = run(x, classes_of(x), scale=scale)[1]
    theirs = run(x, classes_of(x), more=("pred_sq",), scale=scale)[1]
    close = 1e-6 * scale if scale < 1e36 else 0.0  # what is larger overflows in both
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=close, equal_nan=True)


@pytest.mark.parametrize("layout", ["items", "classes", "batch first", "one item", "channels last"])
def test_layouts(layout: str) -> None:
    """Planes of contiguous voxels are read in place, others are copied."""
    x = logits(2, 3, 40, 39)
    strided = {
        "items": lambda: torch.cat([x, x], 1)[:, :3],
        "classes": lambda: torch.stack([x, x], 2)[:, :, 1],
        "batch first": lambda: x.transpose(0, 1).contiguous().transpose(0, 1),
        "one item": lambda: x[:1].expand_as(x),
        "channels last": lambda: x.to(memory_format=torch.channels_last),
    }[layout]()
    plain = strided.contiguous()
    labels = classes_of(x)
    for found, truth in zip(run(strided, labels), run(plain, labels), strict=True):
        torch.testing.assert_close(found, truth, rtol=5e-7, atol=1e-6)
    check_agreement(strided, labels)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("classes", CLASSES)
def test_half_precision(classes: int, dtype: torch.dtype) -> None:
    x = logits(2, classes, 1531).to(dtype)
    labels = classes_of(x)
    rows, grad = run(x, labels)
    true_rows, true_grad = run(x.float(), labels)
    # Of many classes the copies make the blocks shorter, whose sums are added.
    torch.testing.assert_close(rows, true_rows, rtol=0 if classes < 64 else 1e-6, atol=0)
    assert torch.equal(grad, true_grad.to(dtype))
    x[1, 0, 700] = torch.nan
    check_agreement(x, labels)


def test_bits_do_not_depend_on_threads() -> None:
    x = logits(2, 4, 29, 61, 31)
    labels = classes_of(x)
    labels[0, 3, 5] = IGNORED
    expected = run(x, labels, ignore_index=IGNORED)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            for found, truth in zip(run(x, labels, ignore_index=IGNORED), expected, strict=True):
                assert torch.equal(found, truth), threads
    finally:
        torch.set_num_threads(before)
