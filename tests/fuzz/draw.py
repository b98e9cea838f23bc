"""What random calls are made of: shapes, layouts, dtypes, values, labels; and what is bad."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.sanitizers.fuzz_region_sums import (
    FLOATING,
    INTEGER,
    LABELS,
    LAYOUTS,
    WILD,
    is_exact,
    lay_out,
)

SPACES = (
    (1,),
    (9,),
    (0,),
    (33,),
    (1, 1),
    (5, 7),
    (16, 33),
    (2, 0),
    (1, 6, 5),
    (4, 5, 6),
    (9, 8, 17),
)
IGNORED = (None, None, None, 0, 1, 255, -100, 2**31, -(2**63), 2**63 - 1)


@dataclass
class Problem:
    """Tensors of a call, and what is strange about them.

    Attributes:
        input: ``[B, C, *S]``.
        target: Labels or values.
        weight: Per voxel, or None.
        ignore_index: Or None.
        wild: Whether values are not finite or extreme.
        bad: What is wrong, in words; nothing where the call must be served.
    """

    input: Tensor
    target: Tensor
    weight: Tensor | None
    ignore_index: int | None
    wild: bool = False
    bad: list[str] = field(default_factory=list)


class Draw:
    """Random numbers of one case, which its seed gives."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        torch.manual_seed(seed)

    def problem(self, *, fewest: int = 1, hard: bool = False) -> Problem:
        """Return tensors for a loss; one of three is bad."""
        pick, chance = self.random.choice, self.random.random
        classes = max(fewest, pick((1, 2, 3, 3, 5)))
        shape = (pick((0, 1, 2, 2, 3)), classes, *pick(SPACES))
        wild = chance() < 0.2
        x = torch.randn(shape) * pick((1.0, 5.0, 30.0))
        if wild:
            strange = torch.tensor(WILD)[torch.randint(len(WILD), shape)]
            x = torch.where(torch.rand(shape) < 0.2, strange, x)
        x = self.lay_out(x.to(pick(FLOATING)))
        dense = chance() < 0.3
        ignored = None if dense and classes > 1 else pick(IGNORED)
        found = Problem(x, self.target(shape, dense, ignored, hard), None, ignored, wild)
        if chance() < 0.2:
            channels = pick((1, classes))
            found.weight = self.lay_out(torch.rand(shape[0], channels, *shape[2:]))
        if chance() < 0.2:
            self.spoil(found)
        return found

    def target(
        self, shape: tuple[int, ...], dense: bool, ignored: int | None, hard: bool
    ) -> Tensor:
        """Return valid labels, or values, some of them ignored."""
        pick = self.random.choice
        dtype = pick((torch.bool, *INTEGER, *FLOATING))
        if dense:
            values = torch.rand(shape).round() if hard else torch.rand(shape)
            target = (values if dtype.is_floating_point else values.round()).to(dtype)
        else:
            high = 2 if shape[1] == 1 or dtype == torch.bool else shape[1]
            target = torch.randint(high, (shape[0], *shape[2:])).to(dtype)
        if ignored is not None and is_exact(ignored, dtype):
            target[torch.rand(target.shape) < 0.2] = ignored
        if not dense and self.random.random() < 0.3:
            target = target[:, None]
        return self.lay_out(target)

    def lay_out(self, values: Tensor) -> Tensor:
        """Return the values with other strides, or at a misaligned address."""
        layout = self.random.choice((*LAYOUTS, "contiguous", "misaligned"))
        if layout == "expanded" and len(values) > 1:
            return lay_out(values, layout)
        if layout != "misaligned":
            return lay_out(values, "contiguous" if layout == "expanded" else layout)
        size = values.element_size()
        memory = bytearray(values.numel() * size + 1)
        if size == 1 or values.numel() == 0:
            return values
        found = torch.frombuffer(memory, dtype=values.dtype, offset=1, count=values.numel())
        return found.view(values.shape).copy_(values)

    def spoil(self, problem: Problem) -> None:
        """Make one thing wrong."""
        x, target = problem.input, problem.target
        labels = target.dim() < x.dim() and target.numel() > 0 and target.dtype in LABELS
        kinds = ["rank", "shape", "dtype", "target shape", "complex", "no tensor", "weight"]
        kind = self.random.choice(kinds + 3 * ["label"] if labels else kinds)
        if kind == "rank":
            problem.input = x.sum().reshape(1, 1)
        elif kind == "shape":
            problem.input = torch.cat([x, x], -1) if x.shape[-1] else x.new_zeros(*x.shape[:-1], 4)
        elif kind == "dtype":
            problem.input = x.long()
        elif kind == "target shape":
            problem.target = (
                torch.cat([target, target], 0)
                if len(target)
                else target.new_zeros(1, 2, 3, 4, 5, 6)
            )
        elif kind == "complex":
            problem.target = target.to(torch.complex64)
        elif kind == "no tensor":
            problem.target = target.tolist()  # type: ignore[assignment]
        elif kind == "weight":
            problem.weight = torch.ones(*x.shape, 2)
        else:
            label = self.random.choice(LABELS[target.dtype])
            if label == problem.ignore_index or 0 <= label < max(x.shape[1], 2):
                return
            problem.target = target.clone(memory_format=torch.contiguous_format)
            problem.target.view(-1)[self.random.randrange(target.numel())] = label
        problem.bad.append(kind)
