"""The CPU kernels of lovasz: threads, which share sorts of long ties, and memory."""

from __future__ import annotations

import pytest
import torch

from segloss_fast.ops.lovasz import reference
from tests.helpers import peak_allocation, relative_l2
from tests.ops.lovasz_cases import METHODS, NATIVE, by_activation, count, options_of, solve, sort
from tests.ops.lovasz_samples import IMPLS

pytestmark = pytest.mark.skipif("native" not in IMPLS, reason="no native kernels")


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
            both = (solve(NATIVE, method, x, target, options_of(activation)) for method in METHODS)
            alone = sort(NATIVE, x, target, options_of(activation), wants_gradient=False).loss
            results.append([alone, *(value for one in both for value in one.tensors.values())])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, other, results[0]))
    o = options_of(activation)
    loss, _, _, g = reference.sort(x.double(), target, o)
    found = sort(NATIVE, x, target, o)
    torch.testing.assert_close(found.loss, loss, rtol=3e-7, atol=0)
    if activation == "hinge":  # whose float32 errors have the same ties as those in float64
        assert relative_l2(found.g, g) < 1e-4


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
        found = sort(NATIVE, x, target, options_of("sigmoid"))
    finally:
        torch.set_num_threads(before)
    expected = reference.sort(x, target, options_of("sigmoid"))
    assert found.rows[2].item() == foreground
    torch.testing.assert_close(found.loss, expected[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(found.g, expected[3], rtol=1e-10, atol=0)


def test_the_histogram_keeps_nothing_of_the_volume() -> None:
    o = options_of("softmax")

    def held(size: int) -> int:
        x, target = torch.randn(1, 3, size, 64, 64), torch.zeros(1, size, 64, 64)
        return peak_allocation(lambda: count(NATIVE, x, target, o))

    small, large = held(32), held(128)
    assert large <= small + 4096
