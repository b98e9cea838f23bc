"""The CPU kernels of lovasz: memory layouts, dtypes of targets, threads, large offsets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segloss_fast.ops.lovasz import reference
from segloss_fast.ops.lovasz.options import ACTIVATIONS
from tests.helpers import peak_allocation, relative_l2
from tests.ops.lovasz_native import (
    backward,
    count,
    options_of,
    run_all,
    sort,
    sort_backward,
    weights,
)
from tests.ops.lovasz_samples import IMPLS, sample

pytestmark = pytest.mark.skipif("native" not in IMPLS, reason="no native kernels")
FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
by_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


@by_activation
@pytest.mark.parametrize("layout", ["channels_last", "sliced", "strided", "transposed", "expanded"])
def test_layouts(activation: str, layout: str) -> None:
    x, target, ignore_index = sample((2, 4, 9, 16, 11), "ignore", activation, torch.float32)
    if layout == "expanded":
        x, target = x[:1].expand_as(x), target[:1].expand_as(target)
        plain = (x.contiguous(), target.contiguous())
        strange = (x, target)
    else:
        plain = (x, target)
        strange = (lay_out(x, layout), lay_out(target[:, None], layout)[:, 0])
    o = options_of(activation, False, ignore_index)
    expected, found = run_all(*plain, o), run_all(*strange, o)
    if layout == "channels_last":
        assert found["grad"].is_contiguous(memory_format=torch.channels_last_3d)
    for name, value in found.items():
        if value.dtype == torch.int64 or "sorted loss" in name or name in ("g", "invalid"):
            assert torch.equal(value, expected[name]), name
        else:
            torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-9)


def lay_out(values: Tensor, layout: str) -> Tensor:
    """Return the values with other strides; what lies between them is NaN, or no class."""
    shape = values.shape
    guard = torch.nan if values.dtype.is_floating_point else 77
    if layout == "channels_last":
        return values.to(memory_format=torch.channels_last_3d)
    if layout == "transposed":
        view = values.new_empty(shape[::-1]).permute(*reversed(range(values.dim())))
    elif layout == "sliced":
        base = values.new_full([size + 3 for size in shape], guard)
        view = base[tuple(slice(1, size + 1) for size in shape)]
    else:
        view = values.new_full((*shape[:-1], 2 * shape[-1]), guard)[..., 1::2]
    return view.copy_(values)


@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, *FLOATING],
    ids=str,
)
def test_label_dtypes(classes: int, dtype: torch.dtype) -> None:
    x, target, _ = sample((2, classes, 8, 77), "labels", "sigmoid", torch.float32)
    target = target % 2 if dtype == torch.bool else target
    o = options_of("sigmoid", False, None if dtype == torch.bool else 1)
    expected, found = run_all(x, target, o), run_all(x, target.to(dtype), o)
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, *FLOATING], ids=str)
def test_dense_target_dtypes(dtype: torch.dtype) -> None:
    x, target, _ = sample((2, 3, 8, 77), "dense", "sigmoid", torch.float32)
    target = (target > 0.5).to(dtype)
    o = options_of("sigmoid")
    expected, found = run_all(x, target.float(), o), run_all(x, target, o)
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def test_a_dense_target_is_compared_in_its_own_dtype() -> None:
    target = torch.tensor([0.5, 0.5 + 1e-9], dtype=torch.float64).view(1, 1, 2)
    counts, _, _ = count(torch.zeros(1, 1, 2), target, options_of("sigmoid"))
    assert counts[0].sum((0, 1, 3)).tolist() == [1, 1]


@by_activation
@pytest.mark.parametrize("classes", [1, 3])
def test_threads_do_not_matter(activation: str, classes: int) -> None:
    """One class: the threads share the sort of a group. Three: some groups are shared."""
    if activation == "softmax" and classes == 1:
        pytest.skip("a softmax needs two classes")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, classes, 47, 23, 61), generator=generator)
    x[:, :, :20] = (4 * x[:, :, :20]).round() / 4  # ties, some of them long
    target = torch.randint(0, 2, (2, 47, 23, 61), generator=generator)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            o = options_of(activation, False, None)
            results.append({**run_all(x, target, o), "alone": sort(x, target, o, False)[0]})
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for name, value in other.items():
            assert torch.equal(value, results[0][name]), name
    o = options_of(activation)
    loss, _, _, g = reference.sort(x.double(), target, o)
    torch.testing.assert_close(results[0]["sorted loss"], loss, rtol=3e-7, atol=0)
    if activation == "hinge":  # whose float32 errors have the same ties as those in float64
        assert relative_l2(results[0]["g"], g) < 1e-4


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("foreground", [0, 1, 70001, 200000])
def test_one_tie_of_nearly_all(threads: int, foreground: int) -> None:
    """All errors are equal but one: one thread has nearly all of the sort and the scan to do."""
    x = torch.zeros(1, 1, 200001, dtype=torch.float64)
    x[..., -1] = 3.0
    target = torch.zeros(1, 200001, dtype=torch.int64)
    target[0, :foreground] = 1
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        loss, rows, _, g = sort(x, target, options_of("sigmoid"))
    finally:
        torch.set_num_threads(before)
    expected = reference.sort(x, target, options_of("sigmoid"))
    assert rows[2].item() == foreground
    torch.testing.assert_close(loss, expected[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(g, expected[3], rtol=1e-10, atol=0)


@pytest.mark.parametrize("what", ["input", "target"])
def test_offsets_past_2_to_the_31(what: str) -> None:
    """Strides beyond 2^31 elements, over memory of which only the used pages exist."""
    far = 2**31 + 5
    x, target, _ = sample((1, 2, 3, 5), "dense", "softmax", torch.float16)
    tensors = {"input": x, "target": target.half()}
    storage = torch.empty(far + 15, dtype=torch.float16)
    strided = storage.as_strided((1, 2, 3, 5), (2 * far, far, 5, 1))
    strided.copy_(tensors[what])
    o = options_of("softmax")
    expected = run_all(tensors["input"], tensors["target"], o)
    tensors[what] = strided
    counts, _, _ = count(tensors["input"], tensors["target"], o)
    assert torch.equal(counts, expected["counts"])
    loss, _, _, g = sort(tensors["input"], tensors["target"], o)
    assert torch.equal(loss, expected["sorted loss"])
    assert torch.equal(g, expected["g"])
    grad_loss, grad_ce = weights(loss.shape)
    arguments = (tensors["input"], tensors["target"], o)
    grad = sort_backward(g, grad_loss, grad_ce, *arguments)
    assert torch.equal(grad, expected["sorted grad"])
    coefficients = (expected["table"] * grad_loss[:, :, None, None]).float()
    assert torch.equal(backward(coefficients, grad_ce, *arguments), expected["grad"])


def test_the_histogram_keeps_nothing_of_the_volume() -> None:
    o = options_of("softmax")

    def held(size: int) -> int:
        x, target = torch.randn(1, 3, size, 64, 64), torch.zeros(1, size, 64, 64)
        return peak_allocation(lambda: count(x, target, o))

    small, large = held(32), held(128)
    assert large <= small + 4096
