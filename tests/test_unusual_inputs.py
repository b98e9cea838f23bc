"""Inputs that are rare: another layout, another address, infinite logits, labels beyond a dtype.

Each is served right or refused with an error that says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import segloss_fast
from segloss_fast import distance_transform
from segloss_fast.ops.soft_skeleton import soft_skeleton
from tests.conformance import LOSSES, LossRecord
from tests.helpers import IMPLS
from tests.records import LOVASZ_LOSSES

SIZE = (4, 5)
FUNCTIONS = [record.function for record in LOSSES] + [f for _, f in LOVASZ_LOSSES.values()]
by_loss = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
by_impl = pytest.mark.parametrize("impl", IMPLS)
Loss = Callable[..., Tensor]


def volume(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, 3, *SIZE), generator=generator).to(dtype)
    return x, torch.randint(0, 3, (2, *SIZE), generator=generator)


@by_loss
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:Sparse")
def test_layouts_that_are_not_dense(function: Loss) -> None:
    x, target = volume()
    with pytest.raises(TypeError, match="input must be a dense tensor, got a sparse_coo one"):
        function(x.to_sparse(), target)
    with pytest.raises(TypeError, match="target must be a dense tensor, got a sparse_coo one"):
        function(x, target.to_sparse())
    with pytest.raises(TypeError, match="input must be a dense tensor, got a nested one"):
        function(torch.nested.nested_tensor(list(x)), target)
    if torch.backends.mkldnn.is_available():
        with pytest.raises(TypeError, match="input must be a dense tensor, got a mkldnn one"):
            function(x.to_mkldnn(), target)


@by_loss
def test_ignored_labels_beyond_int64(function: Loss) -> None:
    x, target = volume()
    for index in (2**63, -(2**63) - 1, 2**70):
        with pytest.raises(ValueError, match=f"ignore_index must fit into int64, got {index}"):
            function(x, target, ignore_index=index)
    for index in (2**63 - 1, -(2**63)):
        torch.testing.assert_close(function(x, target, ignore_index=index), function(x, target))


@by_impl
def test_half_precision_labels_have_no_label_between(impl: str) -> None:
    """2049 is 2048 in float16: of such labels nobody can say whether they are ignored."""
    x, target = volume()
    target = target.half()
    target[0, 0, 0] = 2048
    with pytest.raises(ValueError, match="the first of which is 2048"):
        segloss_fast.DiceCELoss(ignore_index=2049, impl=impl)(x, target)
    found = segloss_fast.DiceCELoss(ignore_index=2048, impl=impl)(x, target)
    wanted = segloss_fast.DiceCELoss(ignore_index=2048, impl=impl)(x, target.long())
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


COSTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "cross-entropy": (segloss_fast.CrossEntropyLoss, {}),
    "focal 0": (segloss_fast.FocalLoss, {"gamma": 0.0}),
    "focal 0.5": (segloss_fast.FocalLoss, {"gamma": 0.5}),
    "focal 2": (segloss_fast.FocalLoss, {"gamma": 2.0}),
    "focal sigmoid": (segloss_fast.FocalLoss, {"gamma": 1.5, "activation": "sigmoid"}),
    "exp-log": (segloss_fast.ExpLogLoss, {}),
    "exp-log 1": (segloss_fast.ExpLogLoss, {"gamma": 1.0}),
}


@by_impl
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cost", list(COSTS))
def test_a_masked_class_that_is_the_true_one(cost: str, dtype: torch.dtype, impl: str) -> None:
    """The loss is infinite, and no gradient is NaN, as those of torch's cross_entropy."""
    if impl == "triton" and dtype == torch.float64:
        pytest.skip("no float64 in Triton")
    x, target = volume(dtype)
    target[0, 1, 1] = 2
    x[0, 2, 1, 1] = -math.inf
    leaf = x.requires_grad_()
    module, keywords = COSTS[cost]
    loss = module(impl=impl, **keywords)(leaf, target)
    (grad,) = torch.autograd.grad(loss, leaf)
    assert loss == math.inf
    assert not grad.isnan().any()
    if cost in ("cross-entropy", "focal 0"):
        (wanted,) = torch.autograd.grad(F.cross_entropy(leaf, target), leaf)
        torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-7)


def misaligned(tensor: Tensor) -> Tensor:
    """Return the same values a byte behind a multiple of their size."""
    size = tensor.element_size()
    raw = torch.zeros(tensor.numel() * size + size, dtype=torch.uint8)
    numpy = raw.numpy()[1 : 1 + tensor.numel() * size].view(tensor.numpy().dtype)
    found = torch.from_numpy(numpy.reshape(tensor.shape))
    found.copy_(tensor)
    assert found.data_ptr() % size == 1
    return found


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("record", LOSSES, ids=lambda record: record.name)
def test_addresses_between_elements(record: LossRecord) -> None:
    x, target = volume()
    message = "must begin at a multiple of that in memory"
    with pytest.raises(RuntimeError, match=message):
        record.function(misaligned(x), target, impl="native")
    wanted = record.function(x, target, impl="native")
    found = record.function(misaligned(x).clone(), misaligned(target).clone(), impl="native")
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def odd_bytes(mask: Tensor) -> Tensor:
    """Return the same truth values with bytes that C programs write for true."""
    true = torch.arange(1, 1 + mask.numel()).remainder(254).add(2).to(torch.uint8)
    found = (mask.view(torch.uint8) * true.view(mask.shape)).view(torch.bool)
    assert found.view(torch.uint8).max() > 1
    return found


@by_impl
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of Triton's interpreter
@pytest.mark.parametrize("kind", ["labels", "values", "weight"])
@pytest.mark.parametrize("record", LOSSES, ids=lambda record: record.name)
def test_truth_values_of_any_bytes(record: LossRecord, kind: str, impl: str) -> None:
    x, labels = volume()
    mask = labels > 0
    target = F.one_hot(labels, 3).movedim(-1, 1).bool() if kind == "values" else mask
    weight = mask[:, None] if kind == "weight" else None

    def loss(target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        leaf = x.clone().requires_grad_()
        value = record.function(leaf, target, weight, impl=impl)
        return value, torch.autograd.grad(value, leaf)[0]

    try:
        wanted = loss(target, weight)
    except (TypeError, ValueError):
        pytest.skip("does not take such a target or weight")
    odd = labels if kind == "weight" else odd_bytes(target)
    if kind == "weight":
        wanted = loss(labels, weight)
    found = loss(odd, None if weight is None else odd_bytes(weight))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@by_impl
def test_masks_of_any_bytes(impl: str) -> None:
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand((1, 2, 9, 10, 11), generator=generator) > 0.3
    operators: list[Callable[[Tensor], Tensor]] = [
        lambda mask: segloss_fast.connected_components(mask).labels,
        lambda mask: distance_transform(mask, impl=impl),
        lambda mask: soft_skeleton(mask, 3, impl=impl),
    ]
    for operator in operators:
        assert torch.equal(operator(odd_bytes(mask)), operator(mask))


@by_impl
def test_spacings_whose_squares_do_not_fit(impl: str) -> None:
    x, target = volume()
    loss = segloss_fast.HausdorffDTLoss
    one = loss(impl=impl)(x, target)
    for spacing in (1e-15, 1e-3, 1e15, 1e18):
        found = loss(spacing=spacing, impl=impl)(x, target)
        assert float(found) / spacing**2 == pytest.approx(float(one), rel=1e-5)
    with pytest.raises(ValueError, match=r"diagonal within 1\.8e"):
        loss(spacing=1e19, impl=impl)(x, target)
    with pytest.raises(ValueError, match=r"at least 1\.2e-19 for squared"):
        loss(spacing=1e-20, impl=impl)(x, target)


@by_impl
def test_spacings_too_different_to_compare(impl: str) -> None:
    mask = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    mask[0, 0, 1:, 1:] = True
    found = distance_transform(mask, spacing=(1e-10, 1e10), side="inside", impl=impl)
    torch.testing.assert_close(found[0, 0, 1:, 1:], torch.tensor([[1.0, 1.0], [2.0, 2.0]]) * 1e-10)
    with pytest.raises(ValueError, match=r"more than 1e\+25 times"):
        distance_transform(mask, spacing=(1e-15, 1e15), impl=impl)


def test_axes_too_long() -> None:
    mask = torch.zeros(1, dtype=torch.bool).expand(1, 1, 2**30)
    with pytest.raises(ValueError, match="mask must have less than 1073741824 voxels along each"):
        distance_transform(mask)


def test_a_loss_that_has_been_called_refuses_other_layouts_too() -> None:
    x, target = volume()
    loss = segloss_fast.DiceCELoss()
    expected = loss(x, target)
    for other in (
        x.to_sparse(),
        *([x.to_mkldnn()] if torch.backends.mkldnn.is_available() else []),
    ):
        with pytest.raises(TypeError, match="input must be a dense tensor"):
            loss(other, target)
    with pytest.raises(TypeError, match="target must be a dense tensor"):
        loss(x, target.to_sparse())
    assert torch.equal(loss(x, target), expected)


@pytest.mark.usefixtures("native")
def test_tensors_of_zeros_without_memory() -> None:
    """Torch's own, which stand for a gradient of 0."""
    x, target = volume()
    loss = segloss_fast.DiceCELoss()
    leaf = x.requires_grad_()
    for _ in range(2):
        value = loss(leaf, target)
        (grad,) = torch.autograd.grad(value, leaf, torch._efficientzerotensor(()))
        assert not grad.any()
        zeros = torch._efficientzerotensor(x.shape)
        torch.testing.assert_close(loss(zeros, target), loss(torch.zeros_like(x), target))


def test_class_weights_that_are_not_dense() -> None:
    with pytest.raises(TypeError, match="class_weight must be a dense tensor"):
        segloss_fast.DiceCELoss(class_weight=torch.ones(3).to_sparse())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused_with_what_to_use_instead() -> None:
    losses = [record.module() for record in LOSSES] + [make() for make, _ in LOVASZ_LOSSES.values()]
    losses.append(segloss_fast.DeepSupervisionLoss(segloss_fast.DiceLoss()))
    losses.append(segloss_fast.DiceLoss() + segloss_fast.CrossEntropyLoss())
    for loss in losses:
        for module in (loss, torch.nn.ModuleList([loss])):
            with pytest.raises(TypeError, match=r"does not compile \w+, .*use torch\.compile"):
                torch.jit.script(module)
