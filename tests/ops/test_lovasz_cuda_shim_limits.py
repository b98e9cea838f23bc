"""The CUDA kernels of lovasz, run on the CPU: crowded bins, groups, slabs, order, sanitizers."""

from __future__ import annotations

import ctypes
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segloss_fast.ops.lovasz import reference
from segloss_fast.ops.lovasz.options import Options
from tests.conftest import run_python
from tests.helpers import relative_l2
from tests.ops import lovasz_cuda as cuda
from tests.ops.lovasz_collapsed import (
    assert_near_a_sort,
    binned_hinge,
    by_spread,
    collapsed,
    hinge_logits,
    nearly_kept,
)
from tests.ops.lovasz_cuda import options_of
from tests.ops.lovasz_samples import ACTIVATIONS, sample
from tests.ops.test_lovasz_cuda_shim import assert_counts, check_histogram
from tests.sanitizers.test_sanitizers import runtime as runtime

pytestmark = [pytest.mark.shim, pytest.mark.usefixtures("lovasz_shim")]
TILE = 2048  # voxels that a block of the kernels takes at once
SLAB = 5  # tiles of an image at once, in this build

by_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


def crowded(kind: str, voxels: int) -> Tensor:
    """Return logits ``[1, 3, N]`` whose errors crowd in few bins, away from their edges."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([[0.1, -0.7, 0.4], [2.3, 0.2, -1.1], [-20.0, 31.0, 0.5]])
    if kind == "one":
        choice = torch.zeros(voxels, dtype=torch.int64)
    elif kind == "two":
        choice = torch.randint(0, 2, (voxels,), generator=generator)
    elif kind == "nearly":  # all but a few in the first
        choice = (torch.rand(voxels, generator=generator) < 0.02).long()
    else:  # the smallest and the largest errors
        choice = torch.full((voxels,), 2)
    return logits[choice].T[None].contiguous()


@by_activation
@by_spread
def test_predictions_collapsed_to_one_value(activation: str, spread: float) -> None:
    x, target = collapsed(activation, spread, 0.3, 5000)
    options = options_of(activation, cross_entropy=False)
    counts, rows, _ = cuda.count(x, target, options)
    loss, table = cuda.scan(counts, rows, options, double=False)
    grad = cuda.backward(table, None, x, target, options)
    assert_near_a_sort(loss, grad, x, target, activation)


@pytest.mark.parametrize("bits", [1, 7, 10])
def test_hinge_errors_have_the_reference_s_bins(bits: int) -> None:
    x, target = hinge_logits()
    for octaves in (9, 16):
        options = options_of("hinge", octaves, bits)
        counts, rows, _ = cuda.count(x, target, options)
        expected, true_rows, _ = reference.count(x, target, options)
        assert torch.equal(counts[0], expected[0])
        assert torch.equal(rows[0], true_rows[0])


@pytest.mark.parametrize("bits", [1, 7, 10])
def test_small_hinge_errors(bits: int) -> None:
    x, target = nearly_kept(1e-3, 0.3, 5000)
    options = options_of("hinge", 12, bits, cross_entropy=False)
    counts, rows, _ = cuda.count(x, target, options)
    loss, table = cuda.scan(counts, rows, options, double=False)
    true, true_grad = binned_hinge(x, target, 12, bits)
    # Half of 2^-8 of a bin's width, to which these kernels know an error.
    assert abs(loss.item() - true.item()) < 2.0 ** -(2 + bits) * 2.0**-9
    assert relative_l2(cuda.backward(table, None, x, target, options), true_grad) < 1e-6


@pytest.mark.parametrize("kind", ["one", "two", "nearly", "saturated"])
@pytest.mark.parametrize("seed", [0, 1])
def test_crowded_bins(lovasz_device: ctypes.CDLL, kind: str, seed: int) -> None:
    """Counters that pass 2048 several times in a block, in both orders of threads."""
    lovasz_device.segloss_shim_set_seed(seed)
    lovasz_device.segloss_shim_set_multiprocessors(1)
    x = crowded(kind, 4 * TILE + 100)  # one block
    target = torch.arange(x.shape[2])[None] % 7 % 3
    for activation in ACTIVATIONS:
        check_histogram(x, target, options_of(activation, 9, 3))


def test_a_word_does_not_overflow(lovasz_device: ctypes.CDLL) -> None:
    """Every voxel adds the largest offset there is."""
    lovasz_device.segloss_shim_set_multiprocessors(1)
    options = options_of("hinge", 9, 1, cross_entropy=False)
    x = torch.full((1, 1, 2 * TILE), -(2.0**15) * 1.9999)  # near the upper end of the last bin
    counts, rows, _ = cuda.count(x, torch.ones(1, 2 * TILE), options)
    exact, *_ = reference.count(x, torch.ones(1, 2 * TILE), options)
    assert torch.equal(counts[0], exact[0])
    assert counts[1].sum() == 2 * TILE * (256 * 255 + 128)
    assert rows[0, 0, 0] == 0


@pytest.mark.parametrize("shared_kib", [227, 60, 20, 4])
@pytest.mark.parametrize("classes", [4, 9, 20])
def test_groups_of_classes(lovasz_device: ctypes.CDLL, shared_kib: int, classes: int) -> None:
    """As many classes at once as shared memory holds; without room for one, none of it."""
    lovasz_device.segloss_shim_set_shared_bytes(shared_kib * 1024)
    for activation in ("softmax", "sigmoid"):
        x, target, ignored = sample((2, classes, 150), "ignore", activation, torch.float32)
        check_histogram(x, target, options_of(activation, 12, 5, ignore_index=ignored))


@pytest.mark.parametrize("multiprocessors", [1, 40])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("classes", [2, 16])
def test_slabs_and_chunks(
    lovasz_device: ctypes.CDLL, multiprocessors: int, per_image: bool, classes: int
) -> None:
    lovasz_device.segloss_shim_set_multiprocessors(multiprocessors)
    voxels = (2 * SLAB + 1) * TILE + 77 if classes == 2 else (SLAB + 1) * TILE - 3
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn((2, classes, voxels), generator=generator)
    target = torch.randint(0, classes, (2, voxels), generator=generator)
    options = options_of(bits=3, per_image=per_image)
    counts, rows, _ = cuda.count(x, target, options)
    exact, true_rows, _ = reference.count(x.double(), target, options)
    assert torch.equal(counts[0].sum(-1), exact[0].sum(-1))
    assert (counts[0] - exact[0]).abs().sum() < 1e-4 * exact[0].sum()  # moved across an edge
    torch.testing.assert_close(rows, true_rows, rtol=1e-6, atol=0)
    ours = cuda.histogram(x, target, options)
    truth = cuda.truth(x, target, options, "histogram")
    torch.testing.assert_close(ours.loss, truth.loss, rtol=2.0**-12, atol=0)
    assert relative_l2(ours.grad, truth.grad) < 1e-4


@by_activation
def test_bits_do_not_depend_on_the_order(lovasz_device: ctypes.CDLL, activation: str) -> None:
    x, target, ignored = sample((2, 3, 2500), "ignore", activation, torch.float32)
    options = options_of(activation, bits=4, ignore_index=ignored)
    found = []
    for seed in (0, 1, 2):
        lovasz_device.segloss_shim_set_seed(seed)
        found.append((cuda.histogram(x, target, options), cuda.sort(x, target, options)))
    for pair in found[1:]:
        for ours, first in zip(pair, found[0], strict=True):
            for field in ("loss", "rows", "grad"):
                assert torch.equal(getattr(ours, field), getattr(first, field)), field
    for seed, multiprocessors in ((0, 1), (1, 50)):  # the counts not on the device either
        lovasz_device.segloss_shim_set_seed(seed)
        lovasz_device.segloss_shim_set_multiprocessors(multiprocessors)
        counts, *_ = cuda.count(x, target, options)
        assert torch.equal(counts, found[0][0].counts)  # type: ignore[arg-type]


@by_activation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nan_flags_its_image_and_class(activation: str, dtype: torch.dtype) -> None:
    x, target, _ = sample((3, 2, 90), "labels", activation, dtype)
    target[0, 5] = 255
    x[0, :, 5] = torch.nan  # ignored
    x[1, 1, 7] = torch.nan
    if activation == "hinge":
        x[2, 0, 3], target[2, 3] = -(2.0**16), 0
    options = options_of(activation, per_image=True, ignore_index=255)
    ours, exact = cuda.histogram(x, target, options), reference.count(x, target, options)
    assert ours.counts is not None
    assert_counts(ours.counts, exact[0], options)
    assert torch.equal(ours.rows[0], exact[1][0].double())
    expected = torch.zeros(3, 2, dtype=torch.bool)
    expected[1, 0], expected[1, 1] = activation == "softmax", True
    sorts = cuda.sort(x, target, options)
    assert torch.equal(sorts.loss.isnan(), expected)
    expected[2, 0] = activation == "hinge"
    assert torch.equal(ours.loss.isnan(), expected)
    for result in (ours, sorts):
        found = result.grad[1, 1].isnan()
        assert found[7]
        assert found.all() or activation == "hinge"  # 0 where there is no error
    assert (ours.grad[0, :, 5] == 0).all()
    assert ours.grad[0].isfinite().all()


@by_activation
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (2, 3, 4, 0, 5)])
@pytest.mark.parametrize("per_image", [False, True])
def test_no_voxels(activation: str, shape: tuple[int, ...], per_image: bool) -> None:
    x, target = torch.randn(shape), torch.zeros((shape[0], *shape[2:]), dtype=torch.int64)
    options = options_of(activation, per_image=per_image)
    for result in (cuda.histogram(x, target, options), cuda.sort(x, target, options)):
        assert result.loss.shape == (shape[0] if per_image else 1, 3)
        assert (result.loss == 0).all()
        assert (result.rows == 0).all()
        assert result.grad.shape == shape


@by_activation
def test_ties_share_and_ignored_voxels_do_not_count(activation: str) -> None:
    x, target, _ = sample((2, 3, 400), "labels", activation, torch.float32)
    x = (x * 2).round() / 2 + 0.0  # a few values, many ties
    target[:, ::5] = 255
    for dtype in (torch.float32, torch.float64):
        for per_image in (False, True):
            options = options_of(activation, per_image=per_image, ignore_index=255)
            ours = cuda.sort(x.to(dtype), target, options)
            # Ties of what is computed in this type.
            loss, rows, _, g = reference.sort(x.to(dtype), target, options)
            torch.testing.assert_close(ours.loss, loss, rtol=1e-6, atol=1e-12)
            assert torch.equal(ours.rows[2], rows[2])
            keep = x[target[:, None].expand_as(x) != 255].numel()
            assert keep < x.numel()
            assert (ours.g.movedim(1, -1)[target == 255] == 0).all()  # type: ignore[union-attr]
            if activation == "hinge":  # the others' ties hang on the last bit of their rounding
                torch.testing.assert_close(ours.g, g, rtol=1e-5, atol=0)
    unwanted = cuda.sort(x, target, options, wants_gradient=False)
    assert unwanted.g is not None
    assert unwanted.g.shape == (0,)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    first = cuda.sort(x, target, options)
    second = cuda.sort(x[..., order], target[:, order], options)
    assert torch.equal(first.g[..., order], second.g)  # type: ignore[index, arg-type]


@pytest.mark.parametrize("gap", [12.0, 17.0, 40.0, 80.0])
@by_activation
def test_saturated_logits(gap: float, activation: str) -> None:
    """1 - p keeps its digits where p rounds to 1: both sides of the bins are used."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, 3, 3000)
    target = torch.randint(0, 3, (1, 3000), generator=generator)
    hit = torch.where(torch.rand(1, 3000, generator=generator) < 0.9, target, (target + 1) % 3)
    x = torch.nn.functional.one_hot(hit, 3).movedim(-1, 1) * gap
    x = (x + torch.randn(shape, generator=generator)).float()
    for options in (options_of(activation), dataclasses.replace(options_of(activation), bits=4)):
        compare_loosely(x, target, options)


def compare_loosely(x: Tensor, target: Tensor, options: Options) -> None:
    """Compare where voxels may lie at the edge of a bin."""
    ours, exact = cuda.histogram(x, target, options), cuda.truth(x, target, options, "histogram")
    torch.testing.assert_close(ours.loss, exact.loss, rtol=2.0**-9, atol=1e-7)
    torch.testing.assert_close(ours.rows[1], exact.rows[1], rtol=1e-5, atol=1e-6)
    assert ours.counts is not None
    assert exact.counts is not None
    moved = (ours.counts[0] - exact.counts[0]).abs().sum() / 2
    assert moved <= 2e-3 * exact.counts[0].sum()
    sorts, truth = cuda.sort(x, target, options), cuda.truth(x, target, options, "sort")
    torch.testing.assert_close(sorts.loss, truth.loss, rtol=2e-6, atol=1e-9)


@pytest.mark.sanitizers
def test_sanitizers_find_nothing(tmp_path: Path, runtime: dict[str, str]) -> None:
    library = cuda.build_library(tmp_path / "sanitized.so", sanitize=True)
    script = Path(__file__).parents[1] / "sanitizers/fuzz_lovasz_cuda.py"
    root = Path(__file__).parents[2]
    done = run_python(str(script), str(library), folder=root, **runtime, PYTHONPATH=str(root))
    assert done.returncode == 0, done.stdout
    assert "no finding" in done.stdout, done.stdout
