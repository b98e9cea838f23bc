"""The fused loops of lovasz (a softmax of two to four classes, class indices), beside the others.

The same labels as values of every class take the loops that serve any problem: of an error both
must find the same bin and the same key, at every edge between them.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from segloss_fast._check import FLOATING, INTEGER
from segloss_fast.ops.lovasz.options import Options
from tests.helpers import relative_l2
from tests.ops import lovasz_definition as definition
from tests.ops.fused_samples import LEVELS, classes_of, logits, take_level
from tests.ops.lovasz_cases import METHODS, NATIVE, backward, count, options_of, solve
from tests.ops.lovasz_samples import IMPLS, LAYOUT, foreground_of, sample
from tests.suite.tiers import few

pytestmark = pytest.mark.skipif("native" not in IMPLS, reason="no native kernels")
OPTIONS = options_of("softmax")
CLASSES = few((4, 3, 2, 5, 6), test=3)
# A vector and a block of any width, a chunk; one less, one more.
LENGTHS = (1, 3, 4, 8, 15, 16, 17, 511, 512, 513, 1031, 4095, 4097, 8211)


@pytest.fixture(autouse=True, params=few(LEVELS, test=3))
def every_level(request: pytest.FixtureRequest, cpu_capability: ModuleType) -> None:
    """Each instruction set of this machine."""
    take_level(cpu_capability, request.param)


def run_all(x: Tensor, target: Tensor, o: Options) -> dict[str, Tensor]:
    """Return all that both methods yield."""
    return {
        f"{method} {name}": value
        for method in METHODS
        for name, value in solve(NATIVE, method, x, target, o).tensors.items()
    }


def check_agreement(x: Tensor, labels: Tensor) -> None:
    """Assert that labels and their values give the same, where a NaN is in either, too."""
    t, _ = foreground_of(labels, x.shape[1], None)
    ours, theirs = run_all(x, labels, OPTIONS), run_all(x, t.float(), OPTIONS)
    for name in ("histogram counts", "histogram table", "sort g", "sort loss"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(ours["histogram rows"][0], theirs["histogram rows"][0])
    rounding = 4 * torch.finfo(x.dtype).eps
    for name, rtol in (
        ("histogram rows", 1e-6),
        ("histogram grad", rounding),
        ("sort grad", rounding),
    ):
        a, b = ours[name], theirs[name]
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("classes", CLASSES)
def test_any_length(classes: int) -> None:
    for length in LENGTHS:
        x = logits(2, classes, length)
        check_agreement(x, classes_of(x))


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("scale", few((0.0, 40.0, 1e-3, 1e4), test=2))
def test_crowded_errors(classes: int, scale: float) -> None:
    x = logits(1, classes, 1103, scale=scale)
    check_agreement(x, classes_of(x))


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_no_number(classes: int, value: float) -> None:
    x = logits(1, classes, 1103)
    x[0, classes - 1, 700] = x[0, 0, 3] = value
    check_agreement(x, classes_of(x))
    x[0, :, 30] = value
    check_agreement(x, classes_of(x))


@pytest.mark.parametrize("dtype", few([torch.float16, torch.bfloat16], test=2), ids=str)
def test_half_precision_and_layouts(dtype: torch.dtype) -> None:
    x = logits(2, 4, 9, 11, 13).to(dtype)
    labels = classes_of(x)
    check_agreement(x, labels)
    check_agreement(x.to(memory_format=torch.channels_last_3d), labels)
    check_agreement(x.float().transpose(2, 3), labels.transpose(1, 2))


@pytest.mark.parametrize("dtype", [*INTEGER, *FLOATING], ids=str)
def test_labels_of_any_dtype(dtype: torch.dtype) -> None:
    x = logits(1, 3, 1103)
    labels = classes_of(x).clamp_max(1)  # truth values among them
    truth, found = run_all(x, labels, OPTIONS), run_all(x, labels.to(dtype), OPTIONS)
    for name, value in truth.items():
        assert torch.equal(value, found[name]), name


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", ["labels", "ignore", "rare"])
def test_counts_and_gradients_are_those_of_float64(classes: int, kind: str) -> None:
    """Of errors that keep away from the edges of the bins, for any derivative in each bin."""
    x, labels, ignore_index = sample((2, classes, 1103), kind, dtype=torch.float32)
    if ignore_index is not None:
        labels[1] = labels[1].clamp_max(classes - 1)  # blocks of both loops
    o = options_of("softmax", ignore_index=ignore_index)
    t, counted = foreground_of(labels, classes, ignore_index)
    exact = x.double().requires_grad_()
    m = definition.errors(exact, t, "softmax")
    bin = definition.bin_of(m.detach(), 1 - m.detach(), *LAYOUT, "softmax")
    place = (torch.arange(classes)[:, None] * 2 + t.long()) * 8192 + bin
    flat = place[counted[:, None].expand_as(place)]
    numbers = torch.bincount(flat, minlength=classes * 2 * 8192)
    assert torch.equal(count(NATIVE, x, labels, o)[0][0].flatten(), numbers)
    table = torch.rand(1, classes, 2, 8192, generator=torch.Generator().manual_seed(3))
    loss = (table.double().flatten()[place] * m * counted[:, None]).sum()
    (truth,) = torch.autograd.grad(loss, exact)
    assert relative_l2(backward(NATIVE, table, None, x, labels, o), truth) < 5e-7


@pytest.mark.parametrize("classes", CLASSES)
def test_the_sort_is_that_of_float64(classes: int) -> None:
    x = logits(1, classes, 1103)
    labels = classes_of(x)
    t, _ = foreground_of(labels, classes, None)
    exact = x.double().requires_grad_()
    m = definition.errors(exact, t, "softmax")
    g = torch.stack([definition.exact(m[0, c].detach(), t[0, c]) for c in range(classes)])
    found = run_all(x, labels, OPTIONS)
    torch.testing.assert_close(found["sort loss"][0], (g * m[0]).sum(1), rtol=1e-6, atol=0)
    # Nearly equal errors may change places in float32: a pair of 1103 voxels is 2e-4.
    assert relative_l2(found["sort g"][0], g) < 1e-3


@pytest.mark.parametrize("classes", CLASSES)
def test_backward_finds_the_bins_of_forward(classes: int) -> None:
    """A bin that forward has counted nobody in has no derivative: backward must not look there."""
    x, o = logits(2, classes, 8211, scale=5.0), options_of("softmax", ignore_index=9)
    labels = classes_of(x, torch.int64)
    labels[0, 600] = labels[1, 4000] = 9  # a block each for the other loops
    for target in (labels, labels.int()):
        assert_every_bin_is_known(x, target, o)
        assert_every_bin_is_known(x.half(), target, o)


def assert_every_bin_is_known(x: Tensor, labels: Tensor, o: Options) -> None:
    numbers = count(NATIVE, x, labels, o)[0][0]
    table = torch.where(numbers > 0, 1.0, torch.nan)
    assert not backward(NATIVE, table, None, x, labels, o).isnan().any()
