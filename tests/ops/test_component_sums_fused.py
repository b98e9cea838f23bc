"""The fused loops of component_sums, beside the kernel that serves any problem.

A weight of 1 for each voxel takes the latter: both must agree, at every edge between them, and with
the definition in float64.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast import component_sums
from segloss_fast.ops.component_sums import TERMS
from tests.helpers import relative_l2
from tests.ops.fused_samples import LEVELS, take_level
from tests.suite.tiers import few

COUNT = 40
# Of classes and activation: two of a softmax in one loop, a sigmoid class by class.
KINDS = ((2, "softmax"), (1, "sigmoid"), (3, "sigmoid"))
by_kind = pytest.mark.parametrize(("classes", "activation"), KINDS, ids=str)


@pytest.fixture(autouse=True, params=few(LEVELS, test=1))
def every_level(request: pytest.FixtureRequest, cpu_capability: ModuleType) -> None:
    """Each instruction set of this machine."""
    take_level(cpu_capability, request.param)


def problem(
    classes: int, voxels: int, *, length: int = 9, scale: float = 3.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, labels and shared bins of two items, in runs of some such length."""
    generator = torch.Generator().manual_seed(voxels)
    x = scale * torch.randn(2, classes, voxels, generator=generator)
    labels = torch.randint(0, max(classes, 2), (2, voxels), generator=generator)
    changes = torch.rand(2, 1, voxels, generator=generator) < 1 / length
    bins = changes.cumsum(2) * 7 % (COUNT + 1)
    return x, labels, bins.int()


def run(
    x: Tensor,
    labels: Tensor,
    bins: Tensor,
    activation: str,
    *,
    scale: float = 1.0,
    **options: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor]:
    """Return the rows, and the gradient of a sum of them that weighs each anew."""
    x = x.detach().requires_grad_()
    options = {"terms": TERMS, "impl": "native", **options}
    rows = component_sums(x, labels, bins, count=COUNT, activation=activation, **options).rows
    weights = scale * torch.linspace(-1, 2, rows.numel(), dtype=torch.float64).cos()
    (grad,) = torch.autograd.grad(rows, x, weights.view_as(rows))
    return rows.detach(), grad


def check(
    x: Tensor,
    labels: Tensor,
    bins: Tensor,
    activation: str,
    **options: Any,  # noqa: ANN401
) -> None:
    """Assert that both kernels give what the reference does in float64, NaN for NaN."""
    ours = run(x, labels, bins, activation, **options)
    ones = torch.ones(x.shape[0], 1, *x.shape[2:])
    other = run(x, labels, bins, activation, voxel_weight=ones, **options)
    exact = run(x.double(), labels, bins, activation, **{**options, "impl": "reference"})
    for found, weighed, true, bound in zip(ours, other, exact, (3e-7, 5e-7), strict=True):
        assert torch.equal(found.isnan(), true.isnan())
        assert torch.equal(found.isinf(), true.isinf())
        kept = true.isfinite()
        assert relative_l2(found[kept], true[kept]) < bound
        assert relative_l2(found[kept], weighed[kept].double()) < 2 * bound


# A vector and a block of any width, a chunk; one less, one more; and what lies beyond the fused.
@pytest.mark.parametrize("voxels", few((4129, 1, 15, 16, 17, 33, 511, 512, 513, 529, 8209), test=4))
@by_kind
def test_edges(classes: int, activation: str, voxels: int) -> None:
    check(*problem(classes, voxels), activation)


@pytest.mark.parametrize("length", few((30, 1, 2, 1000), test=2))
@by_kind
def test_runs_of_any_length(classes: int, activation: str, length: int) -> None:
    check(*problem(classes, 1103, length=length), activation)


@pytest.mark.parametrize("scale", few((40.0, 0.0, 1e-3, 1e4), test=2))
@by_kind
def test_logits_of_any_size(classes: int, activation: str, scale: float) -> None:
    check(*problem(classes, 1103, scale=scale), activation)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@by_kind
def test_what_is_not_finite_is_left_to_the_other_kernel(
    classes: int, activation: str, value: float
) -> None:
    """As plain PyTorch has it, and in its own bin alone."""
    x, labels, bins = problem(classes, 1103)
    x[1, -1, 600] = value
    ours = run(x, labels, bins, activation)
    ones = torch.ones(2, 1, 1103)
    other = run(x, labels, bins, activation, voxel_weight=ones)
    for found, weighed in zip(ours, other, strict=True):
        # Of 512 voxels around it they are the very same.
        torch.testing.assert_close(found, weighed.to(found), rtol=1e-5, atol=1e-5, equal_nan=True)
    assert torch.equal(ours[1].isnan(), other[1].isnan())


@by_kind
def test_ignored_and_weighed_voxels(classes: int, activation: str) -> None:
    x, labels, bins = problem(classes, 2003)
    labels[0, 700], labels[1, :3] = 255, 255
    check(x, labels, bins, activation, ignore_index=255)


@by_kind
def test_rows_and_derivatives_of_some_terms(classes: int, activation: str) -> None:
    x, labels, bins = problem(classes, 1103)
    for terms in (
        ["nll"],
        ["fp", "tp"],
        ["pred_sq"],
        ["weight", "fn", "nll_neg"],
        ["target", "pred"],
    ):
        check(x, labels, bins, activation, terms=terms)


@by_kind
def test_large_incoming_gradients(classes: int, activation: str) -> None:
    """Beyond what the fused loops take, whose products would be infinite."""
    x, labels, bins = problem(classes, 1103, scale=0.5)
    _, grad = run(x, labels, bins, activation, scale=1e32)
    _, exact = run(x.double(), labels, bins, activation, scale=1e32)
    assert grad.isfinite().all()
    assert relative_l2(grad / 1e32, exact / 1e32) < 5e-7


def test_overlapping_classes_with_bins_of_their_own() -> None:
    x, _, bins = problem(3, 1103)
    generator = torch.Generator().manual_seed(1)
    target = torch.rand(2, 3, 1103, generator=generator) < 0.3
    own = (bins + torch.arange(3).view(1, 3, 1)).int() % (COUNT + 1)
    for given in (target, target.to(torch.uint8), target.half()):
        check(x, given, own, "sigmoid")
    x[0, 2, 400] = torch.nan  # of the last class, when the first ones could have been added
    ours = run(x, target, own, "sigmoid")[0]
    other = run(x, target, own, "sigmoid", voxel_weight=torch.ones(2, 1, 1103))[0]
    torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@by_kind
def test_half_precision(classes: int, activation: str, dtype: torch.dtype) -> None:
    x, labels, bins = problem(classes, 1103)
    x = x.to(dtype)
    rows, grad = run(x, labels, bins, activation)
    wide, wide_grad = run(x.float(), labels, bins, activation)
    assert torch.equal(rows, wide)
    assert torch.equal(grad, wide_grad.to(dtype))


@by_kind
def test_other_layouts_are_the_same_sums(classes: int, activation: str) -> None:
    """Channels last, bins and labels of every second voxel: copied, block by block."""
    x, labels, bins = problem(classes, 1103)
    rows, grad = run(x, labels, bins, activation)
    last = x.transpose(1, 2).contiguous().transpose(1, 2)
    twice = (labels.repeat_interleave(2, 1)[:, ::2], bins.repeat_interleave(2, 2)[..., ::2])
    for given in ((last, labels, bins), (x, *twice), (last, *twice)):
        found, found_grad = run(*given, activation)
        assert torch.equal(found, rows)
        assert torch.equal(found_grad, grad)
