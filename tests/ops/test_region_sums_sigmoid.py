"""The one pass of region_sums for the sigmoid's overlap and cross-entropy, class by class.

Asking for one more term takes the several passes that serve any problem: both must agree.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from segloss_fast import region_sums
from tests.helpers import relative_l2
from tests.ops import definition
from tests.ops.fused_samples import LEVELS, take_level
from tests.suite.tiers import few

TERMS = ("tp", "pred", "target", "nll", "nll_neg", "weight")
KINDS = {"both": TERMS, "overlap": ("tp", "target", "pred"), "cross-entropy": ("nll", "nll_neg")}
BY_KIND = pytest.mark.parametrize("kind", few(KINDS, test=3))
TARGETS = ("one class", "one value", "one byte", "values", "bytes", "any number", "labels")
IGNORED = 200


@pytest.fixture(autouse=True, params=few(LEVELS, test=1))
def every_level(request: pytest.FixtureRequest, cpu_capability: ModuleType) -> None:
    """Each instruction set of this machine."""
    take_level(cpu_capability, request.param)


def problem(kind: str, length: int = 1103, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Return logits and a target."""
    generator = torch.Generator().manual_seed(1)
    classes = 1 if kind.startswith("one") else 3
    x = scale * torch.randn((2, classes, length), generator=generator)
    if kind in ("one class", "labels"):
        target = torch.randint(0, max(classes, 2), (2, length), generator=generator)
    elif kind == "any number":
        target = 2 * torch.randn(x.shape, generator=generator)
    else:
        target = torch.rand(x.shape, generator=generator)
        target[..., ::3] = target[..., ::3].round()
    return x, (target > 0.5).to(torch.uint8) if kind.endswith(("byte", "bytes")) else target


def run(
    x: Tensor,
    target: Tensor,
    terms: tuple[str, ...] = TERMS,
    more: tuple[str, ...] = (),
    ignore_index: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the rows of the terms, and the gradient of a sum of them that weighs each anew."""
    x = x.detach().requires_grad_()
    rows = region_sums(
        x,
        target,
        activation="sigmoid",
        terms=(*terms, *more),
        ignore_index=ignore_index,
        impl="native",
    ).rows
    incoming = torch.zeros_like(rows)
    kept = incoming[: len(terms)]
    kept.copy_(torch.linspace(-1, 2, kept.numel()).view_as(kept))
    (grad,) = torch.autograd.grad(rows, x, incoming)
    return rows.detach()[: len(terms)], grad


def check_agreement(
    x: Tensor, target: Tensor, terms: tuple[str, ...] = TERMS, ignore_index: int | None = None
) -> None:
    """Assert that both ways give the same, where a NaN is in either, too."""
    ours = run(x, target, terms, ignore_index=ignore_index)
    theirs = run(x, target, terms, ("pred_sq",), ignore_index)
    torch.testing.assert_close(ours[0], theirs[0], rtol=2e-6, atol=1e-5, equal_nan=True)
    assert torch.equal(ours[1].isnan(), theirs[1].isnan())
    tolerance = max(5e-7, torch.finfo(x.dtype).eps if x.dtype != torch.float32 else 0)
    assert relative_l2(*(grad.nan_to_num(0, 0, 0) for grad in (ours[1], theirs[1]))) < tolerance


@BY_KIND
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("scale", few((3.0, 0.0, 40.0), test=1))
def test_values_and_gradients_are_those_of_float64(kind: str, target: str, scale: float) -> None:
    x, t = problem(target, scale=scale)
    terms = KINDS[kind]
    values = definition.one_hot(t, x.shape[1])[0] if t.dim() < x.dim() else t
    rows, grad = run(x, t, terms)
    options = {"activation": "sigmoid", "ce_activation": "sigmoid", "gamma": 0.0}
    truth = definition.sums(x, values, torch.ones_like(x), terms=terms, **options)  # type: ignore[arg-type]
    # Targets of either sign cancel: the kernel for any problem is off by as much.
    torch.testing.assert_close(rows, truth, rtol=2e-6, atol=1e-4)
    exact = x.double().requires_grad_()
    log_p, log_q = (torch.nn.functional.logsigmoid(s * exact) for s in (1, -1))
    p, values = exact.sigmoid(), values.double()
    maps = {"tp": p * values, "pred": p, "nll": -values * log_p, "nll_neg": (values - 1) * log_q}
    sums = torch.stack([maps.get(name, 0 * p).flatten(2).sum(2) for name in terms])
    weights = torch.linspace(-1, 2, sums.numel()).view_as(sums)
    (true_grad,) = torch.autograd.grad(sums, exact, weights.double())
    assert relative_l2(grad, true_grad) < 5e-7


def test_it_is_taken() -> None:
    x, target = problem("values", 4096)
    ours, theirs = run(x, target), run(x, target, more=("pred_sq",))
    assert not torch.equal(ours[0], theirs[0])
    assert not torch.equal(ours[1], theirs[1])


@BY_KIND
@pytest.mark.parametrize("target", TARGETS)
def test_any_length(kind: str, target: str) -> None:
    for length in (1, 4, 7, 8, 15, 16, 17, 511, 512, 513, 527, 4097):
        check_agreement(*problem(target, length), KINDS[kind])


@BY_KIND
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 3e38, -3e38], ids=str)
def test_logits_that_are_not_finite(kind: str, target: str, value: float) -> None:
    x, t = problem(target)
    for place in (0, 300, 1102):
        x[1, -1, place] = value
        check_agreement(x, t, KINDS[kind])
    check_agreement(torch.full_like(x, value), t, KINDS[kind])


@pytest.mark.parametrize("target", ["one class", "labels"])
def test_ignored_labels(target: str) -> None:
    x, labels = problem(target)
    labels[1, [0, 700, 1102]] = IGNORED
    x[1, 0, 700] = torch.nan
    check_agreement(x, labels, ignore_index=IGNORED)
    check_agreement(x, torch.full_like(labels, IGNORED), ignore_index=IGNORED)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_and_strides(target: str, dtype: torch.dtype) -> None:
    x, t = problem(target)
    check_agreement(x.to(dtype), t)
    check_agreement(x.transpose(1, 2).contiguous().transpose(1, 2), t)
