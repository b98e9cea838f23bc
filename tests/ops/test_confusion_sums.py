"""confusion_sums against its definition in float64: values, gradients, layouts, operators."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from segloss_fast import region_sums
from segloss_fast._native import _C
from segloss_fast.ops.confusion_sums import confusion_sums
from tests.helpers import impls, peak_allocation, relative_l2, relative_max
from tests.suite.tiers import begins_in

by_impl = pytest.mark.parametrize("impl", impls("confusion_sums"))
needs_native = pytest.mark.skipif(_C is None, reason="the native module is not built")
SIZES = [(1,), (513,), (5, 7), (3, 20, 33)]


def definition(
    x: Tensor, t: Tensor, w: Tensor | None = None, activation: str = "softmax"
) -> Tensor:
    """Return the sums of a dense target, in float64."""
    x, t = x.double().flatten(2), t.double().flatten(2)
    if w is not None:
        t = t * w.double().flatten(2)
    p = {"softmax": x.softmax(1), "sigmoid": x.sigmoid(), "probabilities": x}[activation]
    return torch.cat([torch.einsum("blv,bcv->blc", t, p), t.sum(2, keepdim=True)], 2)


def gradient(sums: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums, and the gradient of a random combination of them.

    Not one of nearly equal factors, in whose softmax derivative nearly all would cancel.
    """
    x = x.detach().requires_grad_()
    value = sums(x)
    factors = torch.randn(value.shape, generator=torch.Generator().manual_seed(3))
    (value * factors.to(value.dtype)).sum().backward()
    assert x.grad is not None
    return value.detach(), x.grad


def sample(
    classes: int, size: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Return input, labels, and the labels one-hot."""
    torch.manual_seed(classes)
    x = (3 * torch.randn(2, classes, *size)).to(dtype)
    labels = torch.randint(0, classes, (2, *size))
    return x, labels, torch.nn.functional.one_hot(labels, classes).movedim(-1, 1)


@by_impl
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("classes", [2, 4, 9, 40])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "probabilities"])
def test_labels(impl: str, size: tuple[int, ...], classes: int, activation: str) -> None:
    x, labels, one_hot = sample(classes, size)
    x = x.sigmoid() if activation == "probabilities" else x
    value, grad = gradient(lambda x: confusion_sums(x, labels, activation=activation, impl=impl), x)
    wanted, true_grad = gradient(lambda x: definition(x, one_hot, None, activation), x)
    assert value.dtype == torch.float64
    assert relative_l2(value, wanted) < 1e-14
    assert relative_l2(grad, true_grad) < 1e-13


@by_impl
@pytest.mark.parametrize("classes", [3, 12])
@pytest.mark.parametrize("channels", [None, 1, "C"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "probabilities"])
@pytest.mark.parametrize("dense", [False, True])
def test_weights_and_dense_targets(
    impl: str, classes: int, channels: int | str | None, activation: str, dense: bool
) -> None:
    x, labels, t = sample(classes, (9, 77))
    x = x.sigmoid() if activation == "probabilities" else x
    t = torch.rand_like(x) if dense else t.double()
    w = None
    if channels is not None:
        w = torch.randn(2, classes if channels == "C" else 1, 9, 77)
    ignored = None
    if not dense:
        labels[torch.rand(labels.shape) < 0.3] = ignored = 99
        t = t * (labels != 99)[:, None]
    value, grad = gradient(
        lambda x: confusion_sums(
            x,
            t if dense else labels,
            activation=activation,
            voxel_weight=w,
            ignore_index=ignored,
            impl=impl,
        ),
        x,
    )
    wanted, true_grad = gradient(lambda x: definition(x, t, w, activation), x)
    assert relative_l2(value, wanted) < 1e-13
    assert relative_l2(grad, true_grad) < 1e-13


@by_impl
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "sliced"])
def test_dtypes_and_layouts(impl: str, dtype: torch.dtype, layout: str) -> None:
    x, labels, one_hot = sample(5, (9, 13, 31), dtype)
    labels = labels.to(torch.uint8).transpose(1, 3).contiguous().transpose(1, 3)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last_3d)
    elif layout == "transposed":
        x = x.transpose(2, 4).contiguous().transpose(2, 4)
    elif layout == "sliced":
        wide = torch.cat([x, x], -1)
        wide[..., ::2] = x
        x = wide[..., ::2]
    value, grad = gradient(lambda x: confusion_sums(x, labels, impl=impl), x)
    wanted, true_grad = gradient(lambda x: definition(x, one_hot), x.double())
    eps = torch.finfo(torch.float32).eps
    assert relative_max(value, wanted) < 4 * eps
    assert grad.dtype == dtype
    assert grad.stride() == torch.empty_like(x).stride()
    assert relative_l2(grad, true_grad) < max(5 * eps, torch.finfo(dtype).eps / 2)


@by_impl
def test_the_diagonal_is_that_of_region_sums(impl: str) -> None:
    x, labels, _ = sample(4, (40, 41), torch.float32)
    sums = region_sums(x, labels, terms=("tp", "pred", "target"), impl="reference")
    found = confusion_sums(x, labels, impl=impl)
    torch.testing.assert_close(found.diagonal(0, 1, 2), sums.tp, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[..., :-1].sum(1), sums.pred, rtol=1e-6, atol=1e-6)
    assert torch.equal(found[..., -1], sums.target)


@by_impl
def test_gradcheck(impl: str) -> None:
    x, labels, _ = sample(3, (3, 4))
    labels[0, 0, 0] = 7
    assert torch.autograd.gradcheck(
        lambda x: confusion_sums(x, labels, ignore_index=7, impl=impl), (x.requires_grad_(),)
    )


def test_target_and_weight_have_gradients() -> None:
    x, _, one_hot = sample(3, (3, 4))
    t, w = one_hot.double().requires_grad_(), torch.rand(2, 1, 3, 4, requires_grad=True)
    found = confusion_sums(x, t, voxel_weight=w)
    wanted = definition(x, t, w)
    for a, b in zip(
        torch.autograd.grad(found.square().sum(), (t, w)),
        torch.autograd.grad(wanted.square().sum(), (t, w)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    if _C is not None:
        with pytest.raises(RuntimeError, match="served by the reference only"):
            confusion_sums(x, t, impl="native")


@by_impl
@pytest.mark.parametrize("classes", [3, 12])
def test_ignored_nan_does_not_spread_and_others_do(impl: str, classes: int) -> None:
    x, labels, _ = sample(classes, (50,))
    clean = confusion_sums(x, labels, impl=impl)
    x, labels = torch.cat([x, x[..., :1]], -1), torch.cat([labels, labels[:, :1]], -1)
    x[..., -1] = torch.nan
    labels[:, -1] = 99
    x.requires_grad_()
    found = confusion_sums(x, labels, ignore_index=99, impl=impl)
    found.sum().backward()
    torch.testing.assert_close(found, clean)
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad[..., -1] == 0).all()
    labels[0, -1] = 1
    found = confusion_sums(x, labels, ignore_index=99, impl=impl)
    assert found[0, 1, :-1].isnan().all()
    assert found[1].isfinite().all()


@by_impl
def test_labels_out_of_range(impl: str) -> None:
    x, labels, _ = sample(3, (4, 5))
    labels[0, 1, 2], labels[1, 0, 0] = -4, 3
    with pytest.raises(ValueError, match="got 2 other values, the first of which is -4"):
        confusion_sums(x, labels, impl=impl)


def test_bad_arguments() -> None:
    x, labels, _ = sample(3, (4, 5))
    with pytest.raises(ValueError, match=r"input must have at least two, got shape \[2, 1, 4, 5\]"):
        confusion_sums(x[:, :1], labels)
    with pytest.raises(ValueError, match="activation must be one of"):
        confusion_sums(x, labels, activation="relu")
    with pytest.raises(ValueError, match="target must be class indices"):
        confusion_sums(x, labels[:1])
    with pytest.raises(TypeError, match="voxel_weight must"):
        confusion_sums(x, labels, voxel_weight=labels[:, None])
    with pytest.raises(TypeError, match="ignore_index must"):
        confusion_sums(x, labels, ignore_index=1.5)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="impl='triton' is not available here"):
        confusion_sums(x, labels, impl="triton")


@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("classes", [4, 12])
def test_instruction_sets(cpu_capability: ModuleType, capability: str, classes: int) -> None:
    try:
        cpu_capability.set_cpu_capability(capability)
    except RuntimeError as error:
        pytest.skip(str(error))
    x, labels, one_hot = sample(classes, (3, 20, 33), torch.float32)
    value, grad = gradient(lambda x: confusion_sums(x, labels, impl="native"), x)
    wanted, true_grad = gradient(lambda x: definition(x, one_hot), x.double())
    assert relative_max(value, wanted) < 5e-7
    assert relative_l2(grad, true_grad) < 5e-7


@needs_native
def test_threads_and_runs_agree() -> None:
    x, labels, _ = sample(3, (40, 50, 60), torch.float32)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 7, 2):
            torch.set_num_threads(count)
            results.append(gradient(lambda x: confusion_sums(x, labels, impl="native"), x))
    finally:
        torch.set_num_threads(threads)
    for value, grad in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(grad, results[0][1])


@needs_native
def test_keeps_nothing_of_the_inputs_size() -> None:
    x, labels, _ = sample(4, (64, 64, 64), torch.float32)
    x.requires_grad_()
    peak = peak_allocation(lambda: confusion_sums(x, labels, impl="native"))
    assert peak < 2**20


@begins_in("test")
@needs_native
@pytest.mark.parametrize("dense", [False, True])
def test_opcheck(dense: bool) -> None:
    x, labels, _ = sample(3, (4, 5), torch.float32)
    target = torch.rand_like(x) if dense else labels
    arguments = (target, torch.rand(2, 1, 4, 5), "softmax", None, "native")
    operators = torch.ops.segloss_fast
    torch.library.opcheck(operators.confusion_sums, (x.requires_grad_(), *arguments))
    sums = torch.randn(2, 3, 4, dtype=torch.float64)
    torch.library.opcheck(operators.confusion_sums_backward, (sums, x.detach(), *arguments))


@needs_native
def test_double_backward_says_what_serves_it() -> None:
    x, labels, _ = sample(3, (4, 5))
    x.requires_grad_()
    sums = confusion_sums(x, labels, impl="native")
    (grad,) = torch.autograd.grad(sums.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="use impl='reference'"):
        grad.sum().backward()
    sums = confusion_sums(x, labels, impl="reference")
    (grad,) = torch.autograd.grad(sums.square().sum(), x, create_graph=True)
    grad.square().sum().backward()
    assert x.grad is not None


def test_empty() -> None:
    for shape in [(0, 3, 4), (2, 3, 0, 5)]:
        x, labels = torch.empty(shape, requires_grad=True), torch.empty(shape[0], *shape[2:])
        found = confusion_sums(x, labels)
        assert found.shape == (shape[0], 3, 4)
        assert not found.any()
        found.sum().backward()
        assert x.grad is not None
        assert x.grad.shape == shape
