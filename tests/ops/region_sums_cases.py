"""Problems of region_sums for its tests on every machine, and their answers in float64."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from segloss_fast import region_sums
from segloss_fast.ops.region_sums import reference
from segloss_fast.ops.region_sums.native import codes
from segloss_fast.ops.region_sums.options import TERMS, Options
from tests.helpers import relative_l2, relative_max
from tests.machines import Machine
from tests.ops import definition
from tests.ops.region_sums_cuda import factors as factors
from tests.ops.region_sums_cuda import options_of as options_of
from tests.ops.samples import sample

EPSILON = torch.finfo(torch.float32).eps
KINDS = ("labels", "ignore", "dense")
OVERLAP = ("tp", "pred", "target")
LOSS_TERMS = (*OVERLAP, "nll", "focal_neg")
SATURATED = ("tp", "pred", "nll", "nll_neg", "nll_all", "focal", "focal_neg")
LAYOUTS = ("channels_last", "sliced", "transposed", "expanded", "shifted")


@dataclass(frozen=True)
class Case:
    """A call of region_sums.

    Attributes:
        x: ``[B, C, *S]``.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        weight: ``[B, 1 or C, *S]``, or None.
        options: What to compute.
    """

    x: Tensor
    target: Tensor
    weight: Tensor | None
    options: Options

    def each(self, change: Callable[[Tensor], Tensor]) -> Case:
        """Return the case with its tensors changed."""
        weight = None if self.weight is None else change(self.weight)
        return replace(self, x=change(self.x), target=change(self.target), weight=weight)

    def to(self, dtype: torch.dtype) -> Case:
        """Return the case with an input of this dtype."""
        return replace(self, x=self.x.to(dtype))

    def having(self, **options: object) -> Case:
        """Return the case with other options."""
        return replace(self, options=replace(self.options, **options))  # type: ignore[arg-type]


def case_of(
    shape: tuple[int, ...],
    kind: str = "labels",
    terms: Iterable[str] = TERMS,
    activation: str = "softmax",
    ce_activation: str | None = None,
    gamma: float = 2.0,
) -> Case:
    """Return a random problem in float64."""
    x, target, weight, ignored = sample(shape, activation, kind)
    options = options_of(terms, activation, ce_activation, gamma, ignored)
    return Case(x, target, weight, options)


def in_best_dtype(machine: Machine, case: Case) -> Case:
    """Return the case in float64 where the machine has it, in float32 elsewhere."""
    return case.to(torch.float64 if torch.float64 in machine.dtypes else torch.float32)


def sums(machine: Machine, case: Case) -> Tensor:
    """Return the rows, as a caller gets them, of tensors that lie on the machine."""
    o = case.options
    return region_sums(
        case.x,
        case.target,
        terms=o.terms,
        activation=o.activation,
        ce_activation=o.ce_activation,
        gamma=o.gamma,
        voxel_weight=case.weight,
        ignore_index=o.ignore_index,
        impl=machine.asked,
    ).rows


def derive(rows: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of a random combination of the rows."""
    if not rows.requires_grad:  # of the target alone
        return torch.zeros_like(x)
    (grad,) = torch.autograd.grad(rows, x, factors(rows).to(rows.device))
    return grad


def solve(machine: Machine, case: Case) -> tuple[Tensor, Tensor]:
    """Return the rows and that gradient, on the CPU."""
    case = case.each(machine.place)
    case = replace(case, x=case.x.detach().requires_grad_())
    rows = sums(machine, case)
    grad = derive(rows, case.x)
    if machine.impl != "reference":
        assert grad.stride() == torch.empty_like(case.x).stride()
    return rows.detach().cpu(), grad.cpu()


def solved_alike(machine: Machine, case: Case, *others: Case) -> tuple[Tensor, Tensor]:
    """Assert that cases have equal results, and return them."""
    rows, grad = solve(machine, case)
    for other in others:
        found, found_grad = solve(machine, other)
        assert torch.equal(found, rows)
        assert torch.equal(found_grad, grad)
    return rows, grad


def truth(case: Case) -> tuple[Tensor, Tensor]:
    """Return the same by the reference in float64."""
    x = case.x.detach().double().requires_grad_()
    target = case.target.double() if case.target.dim() == x.dim() else case.target
    weight = None if case.weight is None else case.weight.double()
    rows, _ = reference.forward(x, target, weight, case.options)
    return rows.detach(), derive(rows, x)


def by_definition(case: Case) -> Tensor:
    """Return the rows from the formulas."""
    o, x, counted = case.options, case.x, torch.ones(())
    values = case.target
    if values.dim() < x.dim():
        values, counted = definition.one_hot(values, x.shape[1], o.ignore_index)
        x = torch.where(counted == 0, 0.5, x)
    weight = torch.ones_like(x) if case.weight is None else case.weight
    formulas = {"activation": o.activation, "ce_activation": o.ce_activation, "gamma": o.gamma}
    return definition.sums(x, values, weight * counted, terms=o.terms, **formulas)  # type: ignore[arg-type]


def check(
    machine: Machine, case: Case, *, roundings: float = 10, signed: bool = False
) -> tuple[Tensor, Tensor]:
    """Solve a problem and compare with the reference in float64.

    Args:
        machine: Where.
        case: What.
        roundings: To how many of them, of what is computed in, each row is right.
        signed: Whether weights of either sign cancel, which shows in float64.
    """
    rows, grad = solve(machine, case)
    true_rows, true_grad = truth(case)
    dtype = case.x.dtype
    compute = torch.finfo(torch.float64).eps if dtype == torch.float64 else EPSILON
    bound, of_grad = roundings * compute, 5 * compute
    if signed and dtype == torch.float64:
        bound = of_grad = 2e-12
    for name, row, true_row in zip(case.options.terms, rows, true_rows, strict=True):
        assert relative_max(row, true_row) < bound, name
    assert rows.dtype == torch.float64
    assert grad.dtype == dtype
    # The interpreter truncates to bfloat16, where others round.
    truncated = machine.family == "interpreted" and dtype == torch.bfloat16
    half = torch.finfo(dtype).eps * (1 if truncated else 0.5)
    assert relative_l2(grad, true_grad) < max(half, of_grad)
    return rows, grad


def launch(machine: Machine, *cases: Case) -> tuple[Tensor, list[float]]:
    """Return what forward says of inputs in one call, past the checks of the public functions.

    The rows, and of labels out of range how many there are, and the first of them.
    """
    cases = tuple(case.each(machine.place) for case in cases)
    options = cases[0].options
    tensors = [[case.x for case in cases], [case.target for case in cases]]
    weights = [case.weight for case in cases if case.weight is not None]
    if machine.impl in ("reference", "triton"):
        one = reference.forward if machine.impl == "reference" else machine.step()
        found = [one(case.x, case.target, case.weight, options) for case in cases]
        rows, invalid = reference.join(found)
    else:
        rows, invalid = machine.step()(*tensors, weights, *codes(options))
    return rows.cpu(), invalid.tolist()


def gradient_of(machine: Machine, grad_rows: Tensor, case: Case) -> Tensor:
    """Return the gradient by the kernels alone, of tensors that lie on the machine."""
    step, o = machine.step("backward"), case.options
    if machine.impl == "triton":
        grad: Tensor = step(grad_rows, case.x, case.target, case.weight, o)
        return grad
    weights = [] if case.weight is None else [case.weight]
    (grad,) = step(grad_rows, [case.x], [case.target], weights, *codes(o))
    return grad


def check_refused(machine: Machine, case: Case, number: int, first: str) -> None:
    """Assert that labels out of range are counted and named: an error, or rows of NaN."""
    rows, invalid = launch(machine, case)
    assert rows.isnan().all() or machine.family == "native"  # which always raises
    assert [invalid[0], f"{invalid[1]:.16g}"] == [number, first]
    if machine.family == "interpreted":  # whose calls are slow
        return
    case = case.each(machine.place)
    if machine.device != "cpu":
        assert sums(machine, case).isnan().all()
        return
    said = rf"got {number} other values?, the first of which is {re.escape(first)}$"
    with pytest.raises(ValueError, match=said):
        sums(machine, case)


def lay_out(value: Tensor, layout: str) -> Tensor:
    """Return the values with other strides; what lies between them is none of them."""
    if layout == "channels_last":
        return value.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "sliced":
        return torch.stack([value, 0 * value + 77], -1).flatten(-2)[..., ::2]
    if layout == "transposed":
        return value.transpose(-1, -3).contiguous().transpose(-1, -3)
    if layout == "expanded":
        return value[..., :1].expand_as(value)
    memory = torch.full((value.numel() + 1,), 77, dtype=value.dtype)
    return memory[1:].view(value.shape).copy_(value)  # rows that are not aligned


def strided() -> dict[str, tuple[Tensor, Tensor, Tensor | None]]:
    """Return inputs, labels or values, and weights, laid out in ways that go together."""
    x, target, _, _ = sample((2, 4, 6, 8), "softmax", "labels")
    volume, labels, _, _ = sample((2, 3, 2, 4, 6), "softmax", "labels")
    x, volume, weight, last = x.float(), volume.float(), torch.rand(x.shape), torch.channels_last
    packed = x.to(memory_format=last)
    dense = torch.rand_like(x).to(memory_format=last)
    return {
        "channels-last": (packed, target, None),
        "channels-last, shared weight": (packed, target, weight[:, :1]),
        "channels-last, all": (packed, dense, weight.to(memory_format=last)),
        "channels-last, weight not": (packed, target, weight),
        "channels-last volume": (volume.to(memory_format=torch.channels_last_3d), labels, None),
        "transposed": (x.transpose(2, 3), target.transpose(1, 2), None),
        "transposed volume": (volume.permute(0, 1, 4, 2, 3), labels.permute(0, 3, 1, 2), None),
        "labels transposed": (x, target.transpose(1, 2).contiguous().transpose(1, 2), None),
        "expanded": (x[:1, :, :1].expand(2, 4, 6, 8), target, weight[:, :1, :1].expand_as(x)),
        "offset": (torch.cat([x, x])[1:3], target, weight[..., :1].expand(2, 4, 6, 8)),
        "unaligned": (x.flatten()[1:337].view(2, 4, 6, 7), target[..., 1:], weight[..., 1:]),
        "every second": (torch.cat([x, x], 3)[..., ::2], target.repeat(1, 1, 2)[..., ::2], None),
    }


def spread_out(tensor: Tensor) -> Tensor:
    """Return ``[1, 2, 2, 4]`` with a stride beyond 2^31; no memory between is touched."""
    far = 2**31 + 8
    storage = torch.UntypedStorage((far + 16) * tensor.itemsize)
    whole = torch.empty(0, dtype=tensor.dtype).set_(storage, 0, (far + 16,), (1,))
    return whole.as_strided(tensor.shape, (2 * far, far, 4, 1)).copy_(tensor)


def far_apart(what: str) -> tuple[Case, Case]:
    """Return a case with strides beyond 2^31 elements, and the same one without them.

    Only the used pages of its memory exist.
    """
    x = sample((1, 2, 2, 4), "softmax", "labels")[0].half()
    near = Case(x, torch.rand_like(x), torch.rand_like(x), options_of(OVERLAP))
    spread = spread_out(getattr(near, what))
    return replace(near, **{what: spread}), near  # type: ignore[arg-type]


def log_one_minus_softmax(x: Tensor) -> Tensor:
    """Return log(1 - p) from the other classes, for the gradient by autograd."""
    classes = range(x.shape[1])
    others = [torch.stack([x[:, j] for j in classes if j != c], 1).logsumexp(1) for c in classes]
    return torch.stack(others, 1) - x.logsumexp(1, keepdim=True)


def saturated(dtype: torch.dtype, scale: float, shape: Sequence[int] = (4, 31, 7)) -> Case:
    """Return logits that differ by a few times the scale, and labels, right and wrong ones."""
    generator = torch.Generator().manual_seed(1)
    x = (scale * torch.randn((1, *shape), generator=generator)).to(dtype)
    labels = torch.randint(0, shape[0], (1, *shape[1:]), generator=generator)
    return Case(x, labels, None, options_of(SATURATED))
