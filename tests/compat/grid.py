"""Random calls of a drop-in and of its peer, which must give the same.

A call is right if value and gradient equal those of the peer in float64 on the same numbers, or are
as near to them as the peer's own, and shape, dtype, warnings and exception equal those of the peer
on the same tensors.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import impls, relative_l2
from tests.suite.tiers import few

TOLERANCE = 1e-5
BLOCKS = 10  # a tenth of the cases runs in the tier test, all in the tier all
# Without kernels a tenth runs: what differs then is region_sums and its like, which have own tests.
by_block = pytest.mark.parametrize(
    "block", few(range(BLOCKS if impls("region_sums") != ["reference"] else 1), quick=0, test=1)
)


@dataclass(frozen=True)
class Call:
    """One random call.

    Attributes:
        options: Keywords of the constructors.
        input: The prediction, of which a gradient is asked.
        others: What follows it in the call: the target, masks.
        note: What else the case is, for messages.
    """

    options: Mapping[str, Any]
    input: Any
    others: tuple[Any, ...]
    note: object = ""


@dataclass(frozen=True)
class Drop:
    """A drop-in and its peer.

    Attributes:
        ours: The drop-in's constructor.
        theirs: The peer's.
        call: Makes a random call.
        cases: How many are tried.
        judge: Returns the value that is right, of a call in float64; the peer's if None.
        looser: Tolerances of dtypes whose values are rounded.
        ignored: Returns where a call's input does not count, so that a gradient is 0 even where the
            peer's is NaN.
    """

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    call: Callable[[random.Random], Call]
    cases: int
    judge: Callable[[Call], Tensor] | None = None
    looser: Mapping[torch.dtype, float] = field(
        default_factory=lambda: {torch.float16: 2e-3, torch.bfloat16: 2e-2}
    )
    ignored: Callable[[Call], Tensor] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a call did."""

    value: Tensor | None
    gradient: Tensor | None
    warnings: tuple[tuple[type, str], ...]
    error: Exception | None


def double(x: Any) -> Any:  # noqa: ANN401
    """Return floating-point tensors in float64, whatever holds them; the rest as it is."""
    if isinstance(x, Tensor) and x.is_floating_point():
        return x.double()
    if isinstance(x, (list, tuple)):
        return type(x)(double(each) for each in x)
    return x


def outcome(construct: Callable[..., Any], call: Call, scale: float = 1.0) -> Outcome:
    """Return what a constructor and a call of what it returns do.

    The gradient is that of the loss times ``scale``, divided by it again: of small losses it would
    be 0 in half precision. Others that require a gradient get theirs, too.
    """
    several = isinstance(call.input, (list, tuple))
    leaves = [
        x.detach().clone().requires_grad_() for x in (call.input if several else [call.input])
    ]
    given = leaves[:] if several else leaves[0]
    others = [_leaf(x) for x in call.others]
    leaves += [x for x in others if isinstance(x, Tensor) and x.requires_grad]
    value, gradient, error = None, None, None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            loss = construct(**call.options)
            if isinstance(loss, nn.Module) and leaves[0].dtype == torch.float64:
                loss = loss.double()
            value = loss(given, *others)
            if value.requires_grad:
                weights = scale * (1 + torch.arange(value.numel()) % 5 / 4)  # exact in any dtype
                value.backward(weights.to(value.dtype).view_as(value))
                grads = [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves]
                gradient = torch.cat([grad.double().flatten() / scale for grad in grads])
        except Exception as raised:
            value, gradient, error = None, None, raised
    said = tuple((w.category, str(w.message)) for w in caught)
    return Outcome(None if value is None else value.detach(), gradient, said, error)


def _leaf(x: Any) -> Any:  # noqa: ANN401
    """Return a leaf of its own of a tensor that requires a gradient; else what it is."""
    if isinstance(x, Tensor) and x.requires_grad:
        return x.detach().clone().requires_grad_()
    return x


def check(drop: Drop, call: Call) -> None:
    """Assert that the drop-in does what its peer does."""
    theirs = outcome(drop.theirs, call)
    tensors = [x for x in (call.input, *call.others) if isinstance(x, Tensor)]
    shapes, dtypes = [tuple(x.shape) for x in tensors], [x.dtype for x in tensors]
    note = f"{dict(call.options)} {shapes} {dtypes} {call.note}"
    true, scale = None, 1.0
    if theirs.error is None:
        exact = Call(call.options, double(call.input), double(call.others))
        true = outcome(drop.theirs if drop.judge is None else _judged(drop.judge, exact), exact)
        assert true.value is not None, f"{note}: {true.error!r}"
        scale = _scale(true.gradient, theirs.value, dtypes)
    ours = outcome(drop.ours, call, scale)
    if theirs.error is not None or ours.error is not None:
        assert ours.error is not None, f"{note}: the peer raises {theirs.error!r}"
        assert isinstance(ours.error, type(theirs.error)), (
            f"{note}: {ours.error!r}, {theirs.error!r}"
        )
        assert str(ours.error), note
        return
    kinds = [kind for kind, _ in ours.warnings], [kind for kind, _ in theirs.warnings]
    assert kinds[0] == kinds[1], f"{note}: {ours.warnings}, {theirs.warnings}"
    assert ours.value is not None
    assert theirs.value is not None
    assert true is not None
    assert true.value is not None
    assert ours.value.shape == theirs.value.shape, f"{note}: {ours.value.shape}"
    assert ours.value.dtype == theirs.value.dtype, f"{note}: {ours.value.dtype}"
    full = not {torch.float16, torch.bfloat16} & {ours.value.dtype, *dtypes}
    tolerance = drop.looser.get(ours.value.dtype, TOLERANCE)
    _assert_close(ours.value, true.value, tolerance, note, theirs.value if full else None)
    assert (ours.gradient is None) == (true.gradient is None), note
    if ours.gradient is not None and true.gradient is not None:
        tolerance = max(drop.looser.get(dtype, TOLERANCE) for dtype in [ours.value.dtype, *dtypes])
        if drop.ignored is not None:
            true.gradient.masked_fill_(true.gradient.isnan() & drop.ignored(call).flatten(), 0)
        peer = theirs.gradient if full else None
        rounding = 0.0 if scale == 1 else 2.0**-25 / scale  # of the smallest numbers of float16
        off = rounding * math.sqrt(ours.gradient.numel())
        _assert_alike(ours.gradient, true.gradient, tolerance, f"{note}: gradient", peer, off)


def _scale(gradient: Tensor | None, value: Tensor | None, dtypes: Sequence[torch.dtype]) -> float:
    """Return what the loss is multiplied by, so that its gradient has a size that float16 has."""
    if gradient is None or value is None or torch.float16 not in dtypes or not gradient.numel():
        return 1.0
    most = 14 if value.dtype == torch.float16 else 16  # the product with the loss has its dtype
    largest = float(gradient.nan_to_num(0, 0, 0).abs().max())
    return 2.0 ** min(most, math.floor(math.log2(1024 / largest))) if largest > 1e-12 else 1.0


def _judged(judge: Callable[[Call], Tensor], call: Call) -> Callable[..., Any]:
    def construct(**options: object) -> Callable[..., Tensor]:
        return lambda input, *others: judge(Call(options, input, others, call.note))

    return construct


def _assert_close(a: Tensor, b: Tensor, tolerance: float, note: str, peer: Tensor | None) -> None:
    """Assert equal values: relative to each, or to 1e-3 of the largest where one is small."""
    a, b = a.double(), b.to(a.dtype).double()  # which may be infinite in half precision
    assert (a.isnan() == b.isnan()).all(), f"{note}: {a.tolist()}, {b.tolist()}"
    off = 0.0 if peer is None else (peer.double() - b).nan_to_num(0, 0, 0).abs()
    a, b = a.nan_to_num(0, 1e300, -1e300), b.nan_to_num(0, 1e300, -1e300)
    allowed = tolerance * b.abs().clamp_min(1e-3 * float(b.abs().max()) if b.numel() else 0)
    allowed = allowed.clamp_min(1e-3 * tolerance)  # losses of about 0, a difference of numbers of 1
    fits = (a - b).abs() <= torch.maximum(allowed, torch.as_tensor(off))
    assert fits.all(), f"{note}: {a.tolist()}, {b.tolist()}"


def _assert_alike(
    a: Tensor, b: Tensor, tolerance: float, note: str, peer: Tensor | None, off: float = 0.0
) -> None:
    """Assert equal gradients, in relative L2, or up to ``off`` in L2."""
    assert (a.isnan() == b.isnan()).all(), note
    a, b = a.nan_to_num(), b.nan_to_num()
    if float((a.double() - b.double()).norm()) <= off:
        return
    if float(b.double().norm()) < 1e-9:
        assert float(a.double().norm()) < 1e-2 * tolerance, note
        return
    difference = relative_l2(a, b)
    if peer is not None and bool(peer.isfinite().all()):
        tolerance = max(tolerance, relative_l2(peer, b))
    assert difference < tolerance, f"{note}: {difference:.3g}"


def check_block(drop: Drop, block: int) -> None:
    """Check a tenth of the cases; all are random and always the same."""
    for number in range(block, drop.cases, BLOCKS):
        check(drop, drop.call(random.Random(number)))


class Draw:
    """Random shapes, numbers and dtypes, of a generator of Python's."""

    def __init__(self, generator: random.Random) -> None:
        self.pick = generator
        self.torch = torch.Generator().manual_seed(generator.randrange(2**31))

    def of(self, *values: Any) -> Any:  # noqa: ANN401
        """Return one of the values."""
        return self.pick.choice(values)

    def options(
        self, choices: Mapping[str, Sequence[Any]], *, given: float = 0.5
    ) -> dict[str, Any]:
        """Return a value for each keyword that is given, which each is with this probability."""
        return {
            name: self.pick.choice(list(values))
            for name, values in choices.items()
            if self.pick.random() < given
        }

    def size(self, rank: int) -> list[int]:
        """Return sides, of one voxel to a few, primes among them."""
        return [self.of(1, 2, 3, 5, 8, 11) for _ in range(rank)]

    def normal(self, *shape: int, spread: float = 2.0) -> Tensor:
        """Return logits."""
        return spread * torch.randn(*shape, generator=self.torch)

    def labels(self, classes: int, *shape: int) -> Tensor:
        """Return class indices, int64; some classes may be absent."""
        some = self.pick.randint(1, max(classes, 1))
        return torch.randint(0, max(some, 1), shape, generator=self.torch)

    def soft(self, *shape: int) -> Tensor:
        """Return values in [0, 1]."""
        return torch.rand(*shape, generator=self.torch)

    def strided(self, x: Tensor) -> Tensor:
        """Return the same values in another layout, at random."""
        kind = self.of("contiguous", "contiguous", "last", "sliced")
        if kind == "last" and x.dim() > 2:
            return x.movedim(1, -1).contiguous().movedim(-1, 1)
        if kind == "sliced":
            wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
            wide[..., ::2] = x
            return wide[..., ::2]
        return x
