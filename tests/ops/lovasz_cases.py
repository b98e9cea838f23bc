"""The steps of lovasz on every machine, and their answers in float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast.ops.lovasz import bins, reference
from segloss_fast.ops.lovasz.options import ACTIVATIONS, Options
from tests.helpers import relative_l2, relative_max
from tests.machines import Machine, sized
from tests.ops.lovasz_samples import LAYOUT

EPSILON = torch.finfo(torch.float32).eps
EDGE = 128  # of the 65536 places in a bin; what float32 errors may be off by
METHODS = ("sort", "histogram")
NATIVE = Machine("lovasz", *("native",) * 3)  # of this machine's best instruction set
by_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
by_method = sized("method", METHODS, interpreted=METHODS[1:])


@dataclass(frozen=True)
class Result:
    """What one method computes, and the gradient of a combination of its sums.

    Attributes:
        loss: ``[I, C]``.
        rows: Errors that cannot be counted and cross-entropy, of a sort foreground, too.
        grad: Of the input.
        counts: Of the histogram.
        table: Of the histogram: g.
        g: Of the sort.
    """

    loss: Tensor
    rows: Tensor
    grad: Tensor
    counts: Tensor = torch.empty(0)  # noqa: RUF009
    table: Tensor = torch.empty(0)  # noqa: RUF009
    g: Tensor = torch.empty(0)  # noqa: RUF009

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All of it by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def options_of(
    activation: str = "softmax",
    octaves: int = LAYOUT[0],
    bits: int = LAYOUT[1],
    per_image: bool = False,
    ignore_index: int | None = None,
    cross_entropy: bool = True,
) -> Options:
    return Options(activation, "histogram", octaves, bits, per_image, ignore_index, cross_entropy)


def has(machine: Machine, method: str, dtype: torch.dtype = torch.float32) -> bool:
    """Whether the machine takes such a call."""
    return dtype in machine.dtypes and (method == "histogram" or machine.impl != "triton")


def require(machine: Machine, method: str, dtype: torch.dtype = torch.float32) -> None:
    """Skip a test of what the machine does not take."""
    if not has(machine, method, dtype):
        pytest.skip("not of this machine")


def best_dtype(machine: Machine) -> torch.dtype:
    return torch.float64 if torch.float64 in machine.dtypes else torch.float32


def count(machine: Machine, x: Tensor, target: Tensor, o: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Return counts, rows, and the labels out of range."""
    x, target = machine.place(x), machine.place(target)
    if machine.impl == "reference":
        return reference.count(x, target, o)
    code = ACTIVATIONS.index(o.activation)
    found: tuple[Tensor, Tensor, Tensor] = machine.step("count")(
        x, target, code, o.octaves, o.bits, o.per_image, o.ignore_index, o.cross_entropy
    )
    return found


def scan(
    machine: Machine, counts: Tensor, rows: Tensor, o: Options, *, double: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the loss and the table of g."""
    if machine.impl in ("reference", "triton"):
        return reference.scan(counts, rows, o, torch.float64 if double else torch.float32)
    code = ACTIVATIONS.index(o.activation)
    found: tuple[Tensor, Tensor] = machine.step("scan")(
        counts, rows, code, o.octaves, o.bits, double
    )
    return found


def backward(
    machine: Machine,
    table: Tensor,
    grad_ce: Tensor | None,
    x: Tensor,
    target: Tensor,
    o: Options,
    grad_loss: Tensor | None = None,
) -> Tensor:
    """Return the gradient by a table of g; that of the loss is 1 unless it is given."""
    x, target = machine.place(x), machine.place(target)
    if grad_loss is None:
        grad_loss = table.new_ones(table.shape[:2], dtype=torch.float64)
    if machine.impl == "reference":
        leaf = x.detach().requires_grad_()
        total = (reference.weigh(leaf, target, table, o) * grad_loss).sum()
        if grad_ce is not None:
            ce = reference.cross_entropy(reference.read(leaf, target, o.ignore_index), o)
            total = total + (ce * grad_ce).sum()
        return torch.autograd.grad(total, leaf)[0]
    code = ACTIVATIONS.index(o.activation)
    grad: Tensor = machine.step("backward")(
        table, grad_loss, grad_ce, x, target, code, o.octaves, o.bits, o.ignore_index
    )
    assert grad.stride() == torch.empty_like(x).stride()
    return grad


def factors(loss: Tensor) -> tuple[Tensor, Tensor]:
    """Return gradients of the loss and of the cross-entropy, all different."""
    generator = torch.Generator().manual_seed(3)
    grads = 0.5 + torch.rand((2, *loss.shape), generator=generator, dtype=torch.float64)
    return grads[0].to(loss.device), grads[1].to(loss.device)


def histogram(machine: Machine, x: Tensor, target: Tensor, o: Options) -> Result:
    """Return what the histogram yields, on the CPU."""
    counts, rows, _ = count(machine, x, target, o)
    loss, table = scan(machine, counts, rows, o, double=x.dtype == torch.float64)
    grad_loss, grad_ce = factors(loss)
    ce = grad_ce if o.cross_entropy else None
    grad = backward(machine, table, ce, x, target, o, grad_loss)
    return Result(loss.cpu(), rows.detach().cpu(), grad.cpu(), counts.cpu(), table.cpu())


def sort(
    machine: Machine, x: Tensor, target: Tensor, o: Options, *, wants_gradient: bool = True
) -> Result:
    """Return what the sort yields, on the CPU."""
    if machine.impl == "reference":
        return by_reference(x, target, o, "sort")
    x, target = machine.place(x), machine.place(target)
    code = ACTIVATIONS.index(o.activation)
    loss, rows, _, g = machine.step("sort")(
        x, target, code, o.per_image, o.ignore_index, o.cross_entropy, wants_gradient
    )
    grad = torch.empty(0)
    if wants_gradient:
        grad_loss, grad_ce = factors(loss)
        ce = grad_ce if o.cross_entropy else None
        step = machine.step("sort_backward")
        grad = step(g, grad_loss, ce, x, target, code, o.ignore_index)
    return Result(loss.cpu(), rows.cpu(), grad.cpu(), g=g.cpu())


def solve(machine: Machine, method: str, x: Tensor, target: Tensor, o: Options) -> Result:
    """Return what a method yields."""
    return (sort if method == "sort" else histogram)(machine, x, target, o)


def by_reference(x: Tensor, target: Tensor, o: Options, method: str) -> Result:
    """Return it by the reference, in the input's own dtype."""
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    counts = g = torch.empty(0)
    if method == "sort":
        loss, rows, _, g = reference.sort(leaf, target, o)
    else:
        loss, rows, _, counts = reference.histogram(leaf, target, o)
    grad_loss, grad_ce = factors(loss)
    total = (loss * grad_loss).sum()
    if o.cross_entropy:
        total = total + (rows[1] * grad_ce).sum()
    (grad,) = torch.autograd.grad(total, leaf)
    return Result(loss.detach(), rows.detach(), grad, counts, g=g)


def truth(x: Tensor, target: Tensor, o: Options, method: str) -> Result:
    """Return it by the reference in float64."""
    return by_reference(x.double(), target, o, method)


def assert_counts(machine: Machine, ours: Tensor, exact: Tensor, o: Options, double: bool) -> None:
    """Assert equal numbers, and offsets as far apart as the machine may have them."""
    assert ours.dtype == torch.int64
    assert torch.equal(ours[0], exact[0])
    apart: Any = {"native": 2 if double else 256, "reference": 2 if double else 256}.get(
        machine.family, EDGE
    )
    if machine.asked == "native" and machine.family != "native":  # CUDA C++: offsets of 8 bits
        near, far, point = bins.bounds(o, exact.device, torch.float64)
        error = torch.maximum((point + near).abs(), (point + far).abs())
        # Half a step of 2^-8 of the bin, and what 1e-6 of an error is there.
        apart = 128.5 + 2**16 * 1e-6 * (error / (far - near).abs()).nan_to_num(0)  # 0 where m is 0
    assert ((ours[1] - exact[1]).abs() <= apart * exact[0]).all()
    if machine.impl == "triton" and exact[0].any():
        off = (ours[1] - exact[1]).abs().sum() / exact[0].sum()
        assert off < 30, f"offsets are off by {off} of 65536 on average"


def assert_result(
    machine: Machine, ours: Result, exact: Result, dtype: torch.dtype, loss: float
) -> None:
    """Assert what both methods have, the loss to so much of the largest one."""
    compute = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    bound, of_rows = 5 * compute, 10 * compute
    if machine.family in ("native", "reference"):  # they add up longer in one place
        bound = 1e-13 if dtype == torch.float64 else 1e-6
        loss, of_rows = max(loss, 1e-13), max(of_rows, 1e-13)
    assert relative_max(ours.loss, exact.loss) < loss
    assert torch.equal(ours.rows[0], exact.rows[0].double())
    assert relative_max(ours.rows[1], exact.rows[1]) < of_rows
    assert ours.grad.dtype == dtype
    # The interpreter truncates to bfloat16, where others round.
    truncated = machine.family == "interpreted" and dtype == torch.bfloat16
    half = torch.finfo(dtype).eps * (1 if truncated else 0.5)
    assert relative_l2(ours.grad, exact.grad) < max(half, bound)


def check(
    machine: Machine,
    x: Tensor,
    target: Tensor,
    o: Options,
    methods: Iterable[str] = METHODS,
) -> Result:
    """Compare with the reference in float64; return what the histogram yields.

    Errors must keep away from the edges of the bins, as those of lovasz_samples do.
    """
    dtype = x.dtype
    compute = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    ours, exact = histogram(machine, x, target, o), truth(x, target, o, "histogram")
    assert_counts(machine, ours.counts, exact.counts, o, dtype == torch.float64)
    # An offset of 16 bits may stand for 256 of them, 128 and a half away from the first; and a bin
    # is 2^-bits of the error wide.
    offsets = 128.5 * 2.0 ** -(16 + o.bits)
    assert_result(machine, ours, exact, dtype, offsets + compute)
    single = 1e-13 if dtype == torch.float64 else 3e-7
    loss, table = reference.scan(ours.counts, ours.rows, o, ours.table.dtype)
    torch.testing.assert_close(ours.loss, loss, rtol=1e-12, atol=1e-14)
    filled = exact.counts[0] > 0
    if o.activation == "hinge":
        filled[..., 0] = False  # no errors there
    torch.testing.assert_close(ours.table[filled], table[filled], rtol=single, atol=0)
    if "sort" not in methods or not has(machine, "sort"):
        return ours
    sorts, exact = sort(machine, x, target, o), truth(x, target, o, "sort")
    assert_result(machine, sorts, exact, dtype, 5 * compute)
    assert torch.equal(sorts.rows[2], exact.rows[2].double())
    assert sorts.g.shape == x.shape
    if machine.impl != "reference":
        alone = sort(machine, x, target, o, wants_gradient=False)
        assert torch.equal(alone.loss, sorts.loss)
        assert torch.equal(alone.rows, sorts.rows)
        assert alone.g.shape == (0,)
    return ours


def ignoring(o: Options, index: int | None) -> Options:
    return replace(o, ignore_index=index)
