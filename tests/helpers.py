"""What several test files need: the implementations to try, and comparisons."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from segloss_fast import backends
from segloss_fast.ops.region_sums import Formula, region_formula


def impls(primitive: str) -> list[str]:
    """Return those to ask for on the CPU in this install; a pure-Python one is tested too."""
    return sorted(
        b.impl
        for b in backends()
        if (b.primitive, b.device, b.available) == (primitive, "cpu", True) and b.impl != "scipy"
    )


IMPLS = impls("region_sums")


def count_formulas(monkeypatch: pytest.MonkeyPatch, calls: list[Any]) -> None:
    """Add to the calls the terms of each pass over a volume that a formula's program follows."""

    def counted(formula: Formula, *arguments: Any) -> Tensor | None:  # noqa: ANN401
        found = region_formula(formula, *arguments)
        if found is not None:
            calls.append(formula.options.terms)
        return found

    monkeypatch.setattr("segloss_fast.losses._planned.region_formula", counted)
    monkeypatch.setattr("segloss_fast.losses._module.ready_for", lambda *call: None)


# They move no numbers: what is left is a launch each on a GPU.
NO_WORK = ("empty", "new_empty", "empty_like", "detach", "empty_strided", "new_empty_strided")


class count_operators(TorchDispatchMode):  # reads as a function
    """Count, by name, the operations of torch that do something: no views, no empty tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[str] = Counter()

    def __enter__(self) -> Counter[str]:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self.found

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        if not func.is_view and func.overloadpacket.__name__ not in NO_WORK:
            self.found[str(func)] += 1
        return func(*args, **(kwargs or {}))


def gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss, and the gradient of a sum of its values that weighs them differently."""
    x = x.detach().requires_grad_()
    value = loss(x)
    weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype, device=value.device)
    (value * weights.view_as(value)).sum().backward()
    assert x.grad is not None
    return value.detach(), x.grad


def relative_l2(a: Tensor, b: Tensor) -> float:
    """Return |a - b| / |b|, or |a| where b is 0."""
    norm = float(b.double().norm())
    return float((a.double() - b.double()).norm()) / (norm or 1)


def relative_max(a: Tensor, b: Tensor) -> float:
    """Return max|a - b| / max|b|, or max|a| where b is 0."""
    largest = b.double().abs().max().item()
    return (a.double() - b.double()).abs().max().item() / (largest or 1)


def assert_close(a: Tensor, b: Tensor, tolerance: float, note: object = "") -> None:
    """Assert that every value is within the tolerance, relative to itself or, below 1, absolute."""
    difference = (a.double() - b.double()).abs()
    allowed = tolerance * b.double().abs().clamp_min(1)
    assert (difference <= allowed).all(), f"{note}: {difference.max().item():.3g}"


def peak_allocation(call: Callable[[], object]) -> int:
    """Return the most bytes that torch's allocator held during the call above those before it."""
    call()  # so that what is made once is not counted
    # torch 2.10 warns without the last, which takes three times as long.
    options = {"profile_memory": True, "acc_events": torch.__version__ < "2.11"}
    with profile(activities=[ProfilerActivity.CPU], **options) as run:  # type: ignore[arg-type]
        call()
    held = peak = 0
    for event in sorted(run.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def count_allocations(call: Callable[[], object]) -> int:
    """Return how many pieces of memory torch hands out during the call: empty tensors."""
    call()  # so that what is made once is not counted
    with profile(activities=[ProfilerActivity.CPU]) as run:
        call()
    return sum(event.name() == "aten::empty" for event in run.profiler.kineto_results.events())


def has_plan(loss: Tensor) -> bool:
    """Whether a loss came from one node of autograd (losses/_planned.py)."""
    return loss.grad_fn is not None and loss.grad_fn.name() == "_NodeBackward"


def forget_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let losses be traced, however many kinds of calls other tests have made in this process."""
    monkeypatch.setattr("segloss_fast.losses._planned._plans", defaultdict(dict))
    monkeypatch.setattr("segloss_fast.compat._planned._plans", defaultdict(dict))
