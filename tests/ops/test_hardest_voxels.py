"""hardest_voxels against a sort, and every instruction set and number of threads against it."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from segloss_fast._native import _C
from segloss_fast.ops.hardest_voxels import Rule, hardest_voxels
from tests.helpers import impls, peak_allocation
from tests.suite.tiers import begins_in

by_impl = pytest.mark.parametrize("impl", impls("hardest_voxels"))
needs_native = pytest.mark.skipif(_C is None, reason="the native module is not built")
SIZES = [(1,), (513,), (5, 7), (3, 20, 33), (40, 33, 31)]
SOFTMAX = Rule(10.0, "softmax")


def by_sorting(values: Tensor, counts: Tensor, k: float) -> Tensor:
    """Return the weights, given each voxel's value and whether it counts."""
    number = int(counts.sum())
    if number == 0:
        return torch.zeros_like(values)
    number = max(1, int(number * k / 100))
    last = values[counts].sort(descending=True).values[number - 1]
    above, ties = counts & (values > last), counts & (values == last)
    return above + ties * ((number - above.sum()) / ties.sum()).to(values.dtype)


def sample(
    classes: int, size: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    torch.manual_seed(classes)
    x = (3 * torch.randn(2, classes, *size)).to(dtype)
    return x, torch.randint(0, classes, (2, *size))


@by_impl
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("k", [100.0, 50.0, 10.0, 0.1, 1e-6])
def test_equals_a_sort(impl: str, size: tuple[int, ...], classes: int, k: float) -> None:
    x, labels = sample(classes, size)
    labels[torch.rand(labels.shape) < 0.3] = 255
    loss = cross_entropy(x, labels, reduction="none", ignore_index=255)
    wanted = by_sorting(loss, labels != 255, k)
    rule = Rule(k, "softmax", ignore_index=255)
    found, selected = hardest_voxels(x, labels, None, rule, impl=impl)
    assert found.dtype == torch.float64
    assert found.is_contiguous()
    assert torch.equal(found[:, 0], wanted)
    assert torch.equal(selected, wanted.flatten(1).sum(1))


@by_impl
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("values", [1, 2, 3, 40])
def test_ties_share(impl: str, dtype: torch.dtype, values: int) -> None:
    """Few different values: the threshold is one that many voxels have."""
    torch.manual_seed(values)
    x = torch.zeros(2, 2, 3, 41, 33)
    x[:, 1] = torch.randint(0, values, (2, 3, 41, 33)) / 8
    labels = torch.ones(2, 3, 41, 33, dtype=torch.uint8)
    for k in (0.1, 10.0, 33.3, 99.99, 100.0):
        # The smaller the logit of the true class, the larger the loss.
        wanted = by_sorting(-x[:, 1].double(), labels > 0, k)
        found, selected = hardest_voxels(x.to(dtype), labels, None, Rule(k, "softmax"), impl=impl)
        torch.testing.assert_close(found[:, 0].double(), wanted, rtol=1e-6, atol=0)
        torch.testing.assert_close(selected.sum(), wanted.sum())
        assert torch.unique(found).numel() <= 3


@by_impl
def test_order_of_the_voxels_does_not_matter(impl: str) -> None:
    x = torch.randint(0, 3, (1, 3, 4099)).float()
    labels = torch.randint(0, 3, (1, 4099))
    found, selected = hardest_voxels(x, labels, None, SOFTMAX, impl=impl)
    order = torch.randperm(4099)
    other, same = hardest_voxels(x[..., order], labels[:, order], None, SOFTMAX, impl=impl)
    assert torch.equal(other, found[..., order])
    assert torch.equal(selected, same)


@by_impl
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "probabilities"])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("first", [0, 1])
def test_what_is_summed(
    impl: str, activation: str, dense: bool, channels: int | None, first: int
) -> None:
    x, labels = sample(3, (9, 31))
    x = x.sigmoid() if activation == "probabilities" else x
    one_hot = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).double()
    t = torch.rand_like(x) if dense else one_hot
    weight = None
    w = torch.ones_like(x)
    if channels is not None:
        weight = torch.rand(2, channels, 9, 31, dtype=torch.float64)
        weight[torch.rand(weight.shape) < 0.3] = 0
        w = weight.expand_as(x)
    v = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)
    p = {"softmax": x.softmax(1), "sigmoid": x.sigmoid(), "probabilities": x}[activation]
    each, share = -t * p.log(), w * t
    if activation == "sigmoid":
        each, share = each - (1 - t) * (1 - p).log(), w
    loss = (v.view(1, 3, 1, 1) * w * each)[:, first:].sum(1)
    wanted = by_sorting(loss, (share[:, first:] != 0).any(1), 20.0)
    rule = Rule(20.0, activation, first, v)
    found, _ = hardest_voxels(x, t if dense else labels, weight, rule, impl=impl)
    assert torch.equal(found[:, 0], wanted)


@by_impl
def test_one_class(impl: str) -> None:
    x, labels = torch.randn(2, 1, 97, dtype=torch.float64), torch.randint(0, 2, (2, 97))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        x[:, 0], labels.double(), reduction="none"
    )
    found, _ = hardest_voxels(x, labels, None, Rule(15.0, "sigmoid"), impl=impl)
    assert torch.equal(found[:, 0], by_sorting(loss, labels >= 0, 15.0))


@by_impl
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_not_finite_comes_first(impl: str, dtype: torch.dtype) -> None:
    x, labels = torch.randn(1, 2, 1000, dtype=dtype), torch.zeros(1, 1000, dtype=torch.int64)
    x[0, 0, 7], x[0, 1, 700], x[0, 0, 11] = torch.nan, -torch.nan, -torch.inf
    found, _ = hardest_voxels(x, labels, None, Rule(0.2, "softmax"), impl=impl)
    assert found.flatten().nonzero().flatten().tolist() == [7, 700]
    found, _ = hardest_voxels(x, labels, None, Rule(0.3, "softmax"), impl=impl)
    assert found.flatten().nonzero().flatten().tolist() == [7, 11, 700]
    labels[0, [7, 11, 700]] = 9  # now they do not count
    rule = Rule(100.0, "softmax", ignore_index=9)
    found, selected = hardest_voxels(x, labels, None, rule, impl=impl)
    assert torch.equal(found.flatten(), (labels != 9).flatten().to(dtype))
    assert selected.tolist() == [997]


@by_impl
def test_negative_losses_are_ordered(impl: str) -> None:
    x, labels = sample(3, (40, 50))
    weight = torch.randn(2, 1, 40, 50, dtype=torch.float64)
    loss = cross_entropy(x, labels, reduction="none") * weight[:, 0]
    for k in (20.0, 80.0):  # on both sides of 0
        found, _ = hardest_voxels(x, labels, weight, Rule(k, "softmax"), impl=impl)
        assert torch.equal(found[:, 0], by_sorting(loss, loss == loss, k))


@by_impl
def test_nothing(impl: str) -> None:
    for shape in [(0, 3, 4), (2, 3, 0, 5)]:
        x, labels = torch.empty(shape), torch.empty(shape[0], *shape[2:])
        found, selected = hardest_voxels(x, labels, None, SOFTMAX, impl=impl)
        assert found.shape == (shape[0], 1, *shape[2:])
        assert selected.tolist() == [0.0] * shape[0]
    x, labels = torch.full((2, 3, 40), torch.nan), torch.full((2, 40), 7)
    rule = Rule(10.0, "softmax", ignore_index=7)
    found, selected = hardest_voxels(x, labels, None, rule, impl=impl)
    assert not found.any()
    assert not selected.any()


@by_impl
def test_labels_of_a_dtype_that_does_not_hold_all_classes(impl: str) -> None:
    """A label of -128 is none of them: it is not class 128."""
    x, labels = torch.randn(1, 130, 40), torch.randint(0, 127, (1, 40), dtype=torch.int8)
    labels[0, ::3] = -128
    found, _ = hardest_voxels(x, labels, None, Rule(100.0, "softmax"), impl=impl)
    assert torch.equal(found.flatten(), (labels[0] >= 0).float())


@by_impl
def test_layouts(impl: str) -> None:
    x, labels = sample(4, (6, 5, 7), torch.float32)
    wanted, _ = hardest_voxels(x, labels, None, SOFTMAX, impl=impl)
    for other in (
        x.to(memory_format=torch.channels_last_3d),
        x.transpose(2, 4).contiguous().transpose(2, 4),
        torch.stack([x, x], -1)[..., 0],
    ):
        turned = labels.transpose(1, 3).contiguous().transpose(1, 3)
        found, _ = hardest_voxels(other, turned, None, SOFTMAX, impl=impl)
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_instruction_sets(cpu_capability: ModuleType, capability: str, dtype: torch.dtype) -> None:
    try:
        cpu_capability.set_cpu_capability(capability)
    except RuntimeError as error:
        pytest.skip(str(error))
    x, labels = sample(5, (3, 20, 33), dtype)
    for activation in ("softmax", "sigmoid"):
        rule = Rule(30.0, activation)
        found, selected = hardest_voxels(x, labels, None, rule, impl="native")
        wanted, count = hardest_voxels(x, labels, None, rule, impl="reference")
        assert torch.equal(found, wanted)
        assert torch.equal(selected, count)


@needs_native
def test_threads_and_runs_agree() -> None:
    x, labels = sample(3, (40, 50, 60), torch.float32)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 7, 2):
            torch.set_num_threads(count)
            results.append(hardest_voxels(x, labels, None, SOFTMAX, impl="native"))
    finally:
        torch.set_num_threads(threads)
    for found, selected in results[1:]:
        assert torch.equal(found, results[0][0])
        assert torch.equal(selected, results[0][1])


@needs_native
def test_keeps_one_map() -> None:
    x, labels = sample(4, (64, 64, 64), torch.float32)
    peak = peak_allocation(lambda: hardest_voxels(x, labels, None, SOFTMAX, impl="native"))
    assert peak < x[:, :1].nbytes + 2**20


@begins_in("test")
@needs_native
@pytest.mark.parametrize("dense", [False, True])
def test_opcheck(dense: bool) -> None:
    x, labels = sample(3, (4, 5), torch.float32)
    target = torch.rand_like(x) if dense else labels
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    arguments = (x, target, torch.rand(2, 1, 4, 5), weight, 30.0, "sigmoid", 1, None, "native")
    torch.library.opcheck(torch.ops.segloss_fast.hardest_voxels, arguments)
