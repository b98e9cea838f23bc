"""The CPU kernels of lovasz against the reference, in every dtype and instruction set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from segloss_fast._native import _C
from segloss_fast.ops.lovasz import bins, reference
from segloss_fast.ops.lovasz.options import ACTIVATIONS, Options
from tests.helpers import relative_l2
from tests.ops.lovasz_collapsed import (
    binned_hinge,
    by_spread,
    collapsed,
    exact,
    hinge_logits,
    nearly_kept,
    place,
)
from tests.ops.lovasz_native import backward, count, options_of, run_all, scan, sort, weights
from tests.ops.lovasz_samples import IMPLS, KINDS, sample

pytestmark = pytest.mark.skipif("native" not in IMPLS, reason="no native kernels")
by_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
# Roundings of a gradient, in its own dtype, or of float32 arithmetic before it.
DTYPES = {
    torch.float64: 1e-13,
    torch.float32: 1e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def capability(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this machine has."""
    assert _C is not None
    before = _C.cpu_capability()
    try:
        _C.set_cpu_capability(request.param)
    except RuntimeError as error:
        pytest.skip(str(error))
    yield request.param
    _C.set_cpu_capability(before)


def problem(
    shape: tuple[int, ...], kind: str, activation: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor, int | None]:
    """Return a sample; hinge errors of half precision may lie on edges, being exact in float32."""
    if activation == "hinge" and dtype in (torch.float16, torch.bfloat16):
        x, target, ignore_index = sample(shape, kind, activation, torch.float32)
        return x.to(dtype), target, ignore_index
    return sample(shape, kind, activation, dtype)


def true_gradient(x: Tensor, target: Tensor, o: Options, table: Tensor | None) -> Tensor:
    """Return what the reference makes of the same logits in float64, by table or sort."""
    x = x.double().requires_grad_()
    if table is None:
        loss, rows, _, _ = reference.sort(x, target, o)
        ce = rows[1]
    else:
        loss = reference.weigh(x, target, table.double(), o)
        ce = reference.cross_entropy(reference.read(x, target, o.ignore_index), o)
    grad_loss, grad_ce = weights(loss.shape)
    return torch.autograd.grad((loss * grad_loss + ce * grad_ce).sum(), x)[0]


def assert_equals_the_reference(x: Tensor, target: Tensor, o: Options) -> None:
    """Assert it of all results, for logits whose errors keep away from the edges of the bins."""
    dtype = x.dtype
    single = 1e-13 if dtype == torch.float64 else 3e-7
    found = run_all(x, target, o)
    counts, rows, invalid = reference.count(x.double(), target, o)
    assert torch.equal(found["counts"][0], counts[0])
    # Bin and offset know an error to 2^-(b + 16) of the distance from a point, 1e-2 at least (but
    # for 0 and 1); float32 knows it to about |x - max| 2^-24.
    slack = 2 if dtype == torch.float64 else 256
    assert ((found["counts"][1] - counts[1]).abs() <= slack * counts[0]).all()
    torch.testing.assert_close(found["rows"], rows, rtol=single, atol=single)
    assert torch.equal(found["invalid"], invalid)
    loss, table = reference.scan(found["counts"], found["rows"], o, found["table"].dtype)
    torch.testing.assert_close(found["loss"], loss, rtol=1e-12, atol=1e-14)
    filled = counts[0] > 0
    if o.activation == "hinge":
        filled[..., 0] = False  # no errors there
    torch.testing.assert_close(found["table"][filled], table[filled], rtol=single, atol=0)
    true_grad = true_gradient(x, target, o, found["table"])
    assert relative_l2(found["grad"], true_grad) < DTYPES[dtype]
    loss, rows, _, _ = reference.sort(x.double(), target, o)
    torch.testing.assert_close(found["sorted loss"], loss, rtol=single, atol=single)
    torch.testing.assert_close(found["sorted rows"], rows, rtol=single, atol=single)
    alone = sort(x, target, o, wants_gradient=False)
    assert torch.equal(alone[0], found["sorted loss"])
    assert torch.equal(alone[1], found["sorted rows"])
    assert alone[3].numel() == 0


@by_activation
@by_dtype
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_image", [False, True])
def test_equals_the_reference(
    activation: str, dtype: torch.dtype, kind: str, per_image: bool
) -> None:
    x, target, ignore_index = problem((2, 4, 7, 11, 13), kind, activation, dtype)
    assert_equals_the_reference(x, target, options_of(activation, per_image, ignore_index))


@by_activation
@pytest.mark.parametrize("shape", [(2, 5, 601), (1, 33, 37, 31), (3, 1, 1), (1, 2, 9001)])
def test_every_instruction_set(capability: str, activation: str, shape: tuple[int, ...]) -> None:
    if activation == "softmax" and shape[1] == 1:
        pytest.skip("a softmax needs two classes")
    for dtype in DTYPES:
        x, target, ignore_index = problem(shape, "ignore", activation, dtype)
        assert_equals_the_reference(x, target, options_of(activation, False, ignore_index))


@by_activation
@by_spread
def test_predictions_collapsed_to_one_value(
    capability: str, activation: str, spread: float
) -> None:
    x, target = collapsed(activation, spread, 0.3)
    o = replace(options_of(activation), cross_entropy=False)
    counts, rows, _ = count(x, target, o)
    loss, table = scan(counts, rows, o, double=False)
    true, true_grad = exact(x, target, activation)
    assert abs(loss.sum().item() / true.item() - 1) < 1e-6
    assert relative_l2(backward(table, None, x, target, o), true_grad) < 5e-3


@pytest.mark.parametrize("bits", [1, 7, 10])
def test_hinge_errors_have_the_reference_s_bins(capability: str, bits: int) -> None:
    x, target = hinge_logits()
    for octaves in (9, 16):
        o = replace(options_of("hinge"), octaves=octaves, bits=bits)
        assert torch.equal(count(x, target, o)[0], reference.count(x, target, o)[0])


@pytest.mark.parametrize("bits", [1, 7, 10])
def test_small_hinge_errors(capability: str, bits: int) -> None:
    x, target = nearly_kept(1e-3, 0.3, 5000)
    for dtype in (torch.float32, torch.float64):
        o = replace(options_of("hinge"), octaves=12, bits=bits, cross_entropy=False)
        counts, rows, _ = count(x.to(dtype), target, o)
        loss, table = scan(counts, rows, o, double=dtype == torch.float64)
        true, true_grad = binned_hinge(x, target, 12, bits)
        assert abs(loss.item() - true.item()) < place(bits)
        grad = backward(table, None, x.to(dtype), target, o)
        assert relative_l2(grad, true_grad) < 1e-6


@by_activation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["labels", "ignore", "rare"])
def test_gradient_of_the_sort(activation: str, dtype: torch.dtype, kind: str) -> None:
    x, target, ignore_index = problem((2, 3, 17, 19), kind, activation, dtype)
    o = options_of(activation, False, ignore_index)
    grad = run_all(x, target, o)["sorted grad"]
    # Errors that differ in float64 alone are ties, or in another order, in float32.
    assert relative_l2(grad, true_gradient(x, target, o, None)) < (
        1e-12 if dtype == torch.float64 else 1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("voxels", [1500, 50021])
def test_sort_of_many_errors_in_few_octaves(dtype: torch.dtype, voxels: int) -> None:
    """By comparisons and by digits; errors that both dtypes hold, some of them equal."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2**20, (2, 1, voxels), generator=generator).double() / 2**20
    target = (torch.rand((2, voxels), generator=generator) < 0.3).to(torch.uint8)
    o = options_of("hinge", False, None)
    loss, _, _, g = sort(x.to(dtype), target, o)
    expected = reference.sort(x, target, o)
    torch.testing.assert_close(loss, expected[0], rtol=1e-13, atol=0)
    rounding = 1e-12 if dtype == torch.float64 else 2**-24
    torch.testing.assert_close(g.double(), expected[3], rtol=rounding, atol=0)


@by_activation
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_widened(activation: str, dtype: torch.dtype) -> None:
    x, target, _ = problem((2, 3, 501), "labels", activation, dtype)
    o = options_of(activation)
    half, single = run_all(x, target, o), run_all(x.float(), target, o)
    for name, value in half.items():
        if "grad" in name:
            assert value.dtype == dtype
            assert torch.equal(value, single[name].to(dtype)), name
        elif "rows" in name:  # summed in blocks of another size
            torch.testing.assert_close(value, single[name], rtol=1e-6, atol=0)
        else:
            assert torch.equal(value, single[name]), name


@by_activation
def test_nothing_counts(activation: str) -> None:
    x = torch.full((2, 3, 5), torch.nan)
    found = run_all(x, torch.full((2, 5), 255), options_of(activation, False, 255))
    assert all(not value.any() for value in found.values())


@by_activation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nan_is_flagged_where_it_counts(activation: str, dtype: torch.dtype) -> None:
    x, target, _ = problem((2, 3, 600), "labels", activation, dtype)
    o = options_of(activation, True, 255)
    x[0, 1, 5] = x[1, 2, 7] = torch.nan
    target[0, 5] = 255  # does not count
    found = run_all(x, target, o)
    # A softmax has them in all classes of the voxel.
    flagged = torch.tensor([[0, 0, 0], [1, 1, 1] if activation == "softmax" else [0, 0, 1]]).bool()
    for rows, loss in (("rows", "loss"), ("sorted rows", "sorted loss")):
        assert torch.equal(found[rows][0], flagged.double())
        assert torch.equal(found[loss].isnan(), flagged)
    assert torch.equal(found["table"].isnan().all((2, 3)), flagged)
    assert torch.equal(found["table"].isnan().any(3).any(2), flagged)
    for name in ("grad", "sorted grad"):
        assert torch.equal(found[name].isnan().flatten(2).any(2), flagged)
        assert (found[name][0, :, 5] == 0).all()


def test_hinge_errors_beyond_the_bins_are_flagged() -> None:
    x = torch.tensor([65534.0, 65535.0, 1e30, torch.inf, -torch.inf]).view(1, 1, 5)
    o = options_of("hinge")
    counts, rows, _ = count(x, torch.zeros(1, 5), o)
    last = bins.number(o.octaves, o.bits) - 2 ** (o.bits - 1)  # up to 2^16
    assert rows[0].item() == 3
    assert counts[0, 0, 0, 0, last].item() == 4
    assert counts[0, 0, 0, 0, 0].item() == 1
    assert sort(x[..., :3], torch.zeros(1, 3), o)[0].item() == torch.tensor(1e30).item()
