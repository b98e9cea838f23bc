"""Collectives of one size, by which every rank finds out whether the ranks agree.

Backends abort, or wait for ever, when ranks bring different sizes to an all-reduce. So what is
added here is a block of BLOCK float64 numbers whatever the loss: first the header, then the rows,
then zeros. The header holds what must be alike as numbers h of 16 bits, each beside its square:
summed over W ranks, ``W sum h^2 = (sum h)^2`` exactly where all h are equal, and every rank sees
that without a second collective. (For the largest value it is h beside -h.) Of rows that are longer
than the block the rest follows, in a size that the ranks have then agreed upon.

Differentiable as operators of torch, which torch.compile takes into one graph. Every rank computes
the same loss L of the same global sums. The gradient of rank r's rows through them is its share of
dL; the backward all-reduce makes it W times that, for W ranks, so that DDP's mean over the ranks
gives the global gradient exactly.
"""

from __future__ import annotations

import functools
import zlib
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from segloss_fast._check import FLOATING
from segloss_fast._impl import debug_enabled

BLOCK = 4096  # 32 KB, which take as long as one number
FACTS = ("kind of sums", "dtype of input", "number of classes", "number of items", "gradient")
HEADER = 4 * len(FACTS)  # two halves of 32 bits, each with its square

_ALIKE = "str sums, int dtype, SymInt classes, SymInt items, bool gradient"
for _name, _signature in {
    "over_ranks": f"(Tensor rows, {_ALIKE}, bool largest, bool first_of_many, str group) -> Tensor",
    "gradient_over_ranks": f"(Tensor rows, {_ALIKE}, str group) -> Tensor",
    "counts_over_ranks": "(Tensor counts, str group) -> Tensor",
}.items():
    torch.library.define(f"segloss_fast::{_name}", _signature)

Alike = tuple[str, int, int, int, bool]  # sums, dtype, classes, items, gradient


def exchange(
    rows: Tensor, alike: Alike, group: str, *, largest: bool = False, first_of_many: bool = False
) -> Tensor:
    """Return the sums, or largest values, over the ranks; see Ranks."""
    operator = torch.ops.segloss_fast.over_ranks
    result: Tensor = operator(rows, *alike, largest, first_of_many, group)
    return result


def gradient_over_ranks(rows: Tensor, alike: Alike, group: str) -> Tensor:
    """Return the rows; their gradient is added over the ranks."""
    result: Tensor = torch.ops.segloss_fast.gradient_over_ranks(rows, *alike, group)
    return result


def add_counts_over_ranks(counts: Tensor, group: str) -> Tensor:
    """Return integers added over ranks that have agreed about their number before."""
    result: Tensor = torch.ops.segloss_fast.counts_over_ranks(counts, group)
    return result


class _Facts(NamedTuple):
    """What must be alike on all ranks: FACTS."""

    sums: str
    dtype: int
    classes: int
    items: int
    gradient: bool

    def halves(self) -> list[int]:
        """Return each fact as two numbers of 16 bits."""
        numbers = [zlib.crc32(self.sums.encode()), *(int(fact) % 2**32 for fact in self[1:])]
        return [half for number in numbers for half in (number >> 16, number & 0xFFFF)]

    def texts(self) -> list[str]:
        """Return each fact for people to read."""
        dtype = str(FLOATING[self.dtype]).removeprefix("torch.")
        gradient = "recorded" if self.gradient else "not recorded"
        items = "not compared" if self.items < 0 else str(self.items)
        return [repr(self.sums), dtype, str(self.classes), items, gradient]


def _over_ranks(
    rows: Tensor,
    sums: str,
    dtype: int,
    classes: int,
    items: int,
    gradient: bool,
    largest: bool,
    first_of_many: bool,
    group: str,
) -> Tensor:
    """Be the operator, on every device."""
    facts = _Facts(sums, dtype, classes, items, gradient)
    ranks = _resolve(group)
    op = dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM
    values = rows.detach().reshape(-1).to(torch.float64)
    room = BLOCK - HEADER
    zeros = values.new_zeros(max(room - values.numel(), 0))
    block = torch.cat([_header(facts, largest, values.device), values[:room], zeros])
    dist.all_reduce(block, op, group=ranks)
    first_of_many = first_of_many or values.numel() > room
    differs = _differs(block[:HEADER].view(2, -1), dist.get_world_size(ranks), largest)
    _judge(differs, facts, first_of_many)
    total = block[HEADER : HEADER + values.numel()]
    if values.numel() > room:
        rest = values[room:].clone()
        dist.all_reduce(rest, op, group=ranks)
        total = torch.cat([total, rest])
    if not is_read_at_once(total.device):
        total = torch.where(differs.any(), torch.nan, total)
    result: Tensor = total.view(rows.shape).to(rows.dtype, copy=True)
    return result


def _resolve(group: str) -> dist.ProcessGroup | None:
    """Return the group of this name; None, which is the default one, for an empty name."""
    if not group:
        return None
    from torch.distributed import distributed_c10d  # not there in every build of torch

    return distributed_c10d._resolve_process_group(group)  # type: ignore[attr-defined,arg-type]


def _header(facts: _Facts, largest: bool, device: torch.device) -> Tensor:
    if _capturing(device):
        # What is allocated here belongs to the graph, and is not to be kept for others.
        return torch.stack(
            [
                torch.full((), h, dtype=torch.float64, device=device)
                for h in _numbers(facts, largest)
            ]
        )
    return _known_header(facts, largest, device)


@functools.lru_cache(maxsize=1024)
def _known_header(facts: _Facts, largest: bool, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        row = torch.tensor(_numbers(facts, largest), dtype=torch.float64)
        return row.to(device, non_blocking=True)  # a blocking copy would make the host wait


def _numbers(facts: _Facts, largest: bool) -> list[float]:
    halves = facts.halves()
    return [float(h) for h in (*halves, *(-h if largest else h * h for h in halves))]


def _differs(header: Tensor, ranks: int, largest: bool) -> Tensor:
    """Return which of FACTS differ between the ranks, given the header of all of them.

    Integers are exact here up to 2^15 ranks.
    """
    h, beside = header.to(torch.int64)
    differ: Tensor = h != -beside if largest else h * h != beside * ranks
    return differ.view(-1, 2).any(1)


def is_read_at_once(device: torch.device) -> bool:
    """Whether the host can read a number there without waiting for work that it gave out before."""
    return device.type == "cpu"


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _judge(differs: Tensor, facts: _Facts, first_of_many: bool) -> None:
    """Raise where ranks disagree, on CUDA where looking is asked for, or before others.

    Each time before others: a rank that went on alone would wait for ever.
    """
    if not is_read_at_once(differs.device):
        capturing = _capturing(differs.device)
        if debug_enabled() and capturing:
            raise RuntimeError(
                "debug mode compares the ranks, which needs a synchronisation that the capture of a"
                " CUDA graph forbids; leave debug mode before capturing"
            )
        if not (debug_enabled() or (first_of_many and not capturing)):
            return
    wrong = [
        f"{name} (here {text})"
        for name, text, differ in zip(FACTS, facts.texts(), differs.tolist(), strict=True)
        if differ
    ]
    if wrong:
        raise ValueError(
            "the ranks of sync must call the same loss alike, but they disagree about "
            + ", ".join(wrong)
        )


def _counts_over_ranks(counts: Tensor, group: str) -> Tensor:
    total = counts.clone()
    dist.all_reduce(total, group=_resolve(group))
    return total


for _device in ("CPU", "CUDA"):
    torch.library.impl("segloss_fast::over_ranks", _device, _over_ranks)
    torch.library.impl("segloss_fast::counts_over_ranks", _device, _counts_over_ranks)
    torch.library.impl(
        "segloss_fast::gradient_over_ranks", _device, lambda rows, *_alike: rows.clone()
    )


def _alike_fake(rows: Tensor, *_rest: Any) -> Tensor:  # noqa: ANN401
    return rows.new_empty(rows.shape)


for _name in ("over_ranks", "counts_over_ranks", "gradient_over_ranks"):
    torch.library.register_fake(f"segloss_fast::{_name}", _alike_fake)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    ctx.alike, ctx.group, ctx.rest = inputs[1:6], inputs[-1], len(inputs) - 1


def _derivative(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    sums, *others = ctx.alike
    sums = f"gradient of {sums}"
    return exchange(grad, (sums, *others), ctx.group), *[None] * ctx.rest


for _name in ("over_ranks", "gradient_over_ranks"):
    torch.library.register_autograd(f"segloss_fast::{_name}", _derivative, setup_context=_keep)
