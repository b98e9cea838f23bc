"""soft_skeleton: its definition against MONAI's, the kernels against it, ties among all of them."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from monai.losses.cldice import soft_skel

from segloss_fast.ops.soft_skeleton import soft_skeleton
from tests.helpers import impls, peak_allocation
from tests.ops.soft_skeleton_cases import KINDS, solve, values, weights

IMPLS = impls("soft_skeleton")
by_impl = pytest.mark.parametrize("impl", IMPLS)
SIZES = [(1,), (37,), (1, 1), (8, 21), (40, 1), (1, 6, 5), (5, 1, 9), (9, 8, 17), (23, 4, 2)]


@by_impl
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [size for size in SIZES if len(size) > 1], ids=str)
def test_equals_monai_also_where_voxels_are_equal(
    impl: str, kind: str, size: tuple[int, ...]
) -> None:
    for iterations in (0, 1, 3, 7):
        x = values(kind, (2, 2, *size))
        found, grad = solve(x, iterations, impl)
        x.requires_grad_()
        true = soft_skel(x, iterations)
        true.backward(weights(x))
        assert x.grad is not None
        torch.testing.assert_close(found, true.detach(), rtol=0, atol=1e-14)
        torch.testing.assert_close(grad, x.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.skipif("native" not in IMPLS, reason="needs the native module")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_kernels_equal_the_reference(kind: str, size: tuple[int, ...]) -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        for iterations, first in ((0, 0), (2, 1), (11, 0)):
            x = values(kind, (2, 3, *size), dtype)
            found, grad = solve(x, iterations, "native", first)
            true, true_grad = solve(x, iterations, "reference", first)
            torch.testing.assert_close(found, true, rtol=0, atol=tolerance)
            torch.testing.assert_close(grad, true_grad, rtol=tolerance, atol=tolerance)
            assert (found[:, :first] == 0).all()
            assert (grad[:, :first] == 0).all()


@by_impl
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_masks_have_masks_for_skeletons(impl: str, size: tuple[int, ...]) -> None:
    mask = values("binary", (2, 3, *size)) != 0
    for iterations in (0, 2, 9):
        found = soft_skeleton(mask, iterations, first=1, impl=impl)
        assert found.dtype == torch.bool
        true = soft_skeleton(mask.double(), iterations, first=1, impl="reference")
        assert torch.equal(found.double(), true)


def test_a_known_skeleton() -> None:
    bar = torch.zeros(1, 1, 7, 11, dtype=torch.bool)
    bar[..., 2:5, 1:10] = True
    for impl in IMPLS:
        lines = soft_skeleton(bar, 3, impl=impl)[0, 0].int().tolist()
        assert lines[3] == [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0]
        assert sum(map(sum, lines)) == 7


@by_impl
def test_gradcheck(impl: str) -> None:
    x = values("random", (1, 2, 4, 3, 5)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: soft_skeleton(x, 2, impl=impl), (x,), eps=1e-7)


@by_impl
def test_layouts(impl: str) -> None:
    x = values("quarters", (2, 3, 6, 5, 7), torch.float32)
    found, grad = solve(x, 3, impl)
    wide = torch.rand(2, 5, 6, 5, 14)
    wide[:, 1:-1, ..., ::2] = x
    for other in (
        x.to(memory_format=torch.channels_last_3d),
        wide[:, 1:-1, ..., ::2],
        x.transpose(2, 4).contiguous().transpose(2, 4),
    ):
        same, same_grad = solve(other, 3, impl)
        assert torch.equal(same, found)
        assert torch.equal(same_grad, grad)


@by_impl
def test_a_nan_stays_one(impl: str) -> None:
    x = values("random", (1, 1, 9, 9))
    x[0, 0, 4, 4] = torch.nan
    assert soft_skeleton(x, 2, impl=impl)[0, 0, 4, 4].isnan()


@by_impl
@pytest.mark.parametrize("shape", [(0, 2, 4), (2, 0, 3, 3), (1, 2, 3, 0, 5)], ids=str)
def test_empty(impl: str, shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, requires_grad=True)
    found = soft_skeleton(x, 2, impl=impl)
    assert found.shape == shape
    found.sum().backward()
    assert x.grad is not None
    assert soft_skeleton(torch.empty(shape, dtype=torch.bool), 2, impl=impl).shape == shape


@pytest.mark.skipif("native" not in IMPLS, reason="needs the native module")
def test_any_number_of_threads_gives_the_same_bits() -> None:
    before = torch.get_num_threads()
    x = values("random", (1, 1, 70, 12, 13), torch.float32)
    try:
        results = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            results.append(solve(x, 3, "native"))
    finally:
        torch.set_num_threads(before)
    for found, grad in results[1:]:
        assert torch.equal(found, results[0][0])
        assert torch.equal(grad, results[0][1])


@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_instruction_sets(cpu_capability: ModuleType, capability: str) -> None:
    try:
        cpu_capability.set_cpu_capability(capability)
    except RuntimeError as error:
        pytest.skip(str(error))
    for kind in ("random", "quarters"):
        x = values(kind, (2, 2, 9, 10, 37), torch.float32)
        for found, true in zip(solve(x, 3, "native"), solve(x, 3, "reference"), strict=True):
            torch.testing.assert_close(found, true, rtol=1e-5, atol=1e-5)
        mask = x > 0.4
        assert torch.equal(
            soft_skeleton(mask, 3, impl="native"), soft_skeleton(mask, 3, impl="reference")
        )


@pytest.mark.skipif("native" not in IMPLS, reason="needs the native module")
def test_backward_keeps_a_few_slices_only() -> None:
    x = values("random", (1, 1, 64, 24, 24), torch.float32).requires_grad_()
    result, scratch = 4 * x.numel(), 2 * 64 * (5 * 60 + 20 * 8) * 24 * 24 // 64

    def step() -> None:
        soft_skeleton(x, 3, impl="native").sum().backward()
        x.grad = None

    assert peak_allocation(step) < 3 * result + 2 * scratch


@pytest.mark.skipif("native" not in IMPLS, reason="needs the native module")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_operators(layout: torch.memory_format) -> None:
    x = values("random", (2, 3, 5, 6)).to(memory_format=layout)
    operator = torch.ops.segloss_fast.soft_skeleton.default
    torch.library.opcheck(operator, (x.clone().requires_grad_(), 2, 1, "native"))
    torch.library.opcheck(operator, (x > 0.5, 2, 0, "native"))
    backward = torch.ops.segloss_fast.soft_skeleton_backward.default
    torch.library.opcheck(backward, (torch.ones_like(x), x, 2, 1, "native"))


@pytest.mark.skipif("native" not in IMPLS, reason="needs the native module")
def test_double_backward_is_refused() -> None:
    x = values("random", (1, 1, 5, 6)).requires_grad_()
    (grad,) = torch.autograd.grad(
        soft_skeleton(x, 1, impl="native").square().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="soft_skeleton has no second derivative"):
        grad.sum().backward()
