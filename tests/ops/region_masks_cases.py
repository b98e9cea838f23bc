"""Problems for the tests of region_masks' kernels, and their masks by definition in float64."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segloss_fast._check import FLOATING, INTEGER
from segloss_fast.ops.region_masks import reference
from segloss_fast.ops.region_masks.reference import MODES
from tests.machines import Machine
from tests.ops.distance_transform_cases import LAYOUTS, lay_out

DTYPES = (torch.bool, *INTEGER, *FLOATING)
CLASSES = (1, 2, 3, 4, 5, 8, 9, 14, 17, 33)
# Of voxels: around a thread's four, a block's 256 and its 1024.
SPACES: tuple[tuple[int, ...], ...] = (
    *((1,), (4,), (7,), (255,), (256,), (257,), (1024,), (1028,), (2049,)),
    *((1, 1), (5, 7), (8, 12), (33, 40), (3, 4, 5), (1, 9, 1), (2, 1, 6), (8, 9, 16)),
)
STRANGE = (torch.nan, torch.inf, -torch.inf, 3e38, -3e38, 0.0, -0.0)


@dataclass(frozen=True)
class Case:
    """A call of region_masks.

    Attributes:
        values: ``[B, C, *S]``, or in mode ``"labels"`` class indices ``[B, *S]``.
        labels: Class indices ``[B, *S]``, or None.
        classes: C.
        mode: One of MODES.
        ignore_index: The label of ignored voxels, or None.
        first: Masks of classes below it are empty.
    """

    values: Tensor
    labels: Tensor | None
    classes: int
    mode: str
    ignore_index: int | None = None
    first: int = 0

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the native operators take."""
        code = MODES.index(self.mode)
        return self.values, self.labels, self.classes, code, self.ignore_index, self.first

    def __str__(self) -> str:
        tensors = [
            f"{list(tensor.shape)} {tensor.dtype} {tensor.stride()} at {tensor.storage_offset()}"
            for tensor in (self.values, self.labels)
            if tensor is not None
        ]
        return f"{tensors} C={self.classes} {self.mode} {self.ignore_index} from {self.first}"


def exact(case: Case) -> tuple[Tensor, Tensor]:
    """Return the masks, and where they are certain.

    Not where a probability is next to one half, but for one half itself: there roundings decide.
    """
    values = case.values.double() if case.values.is_floating_point() else case.values.long()
    certain = torch.ones((), dtype=torch.bool)
    if case.mode == "labels":
        classes = torch.arange(case.classes).view(1, -1, *[1] * (values.dim() - 1))
        inside = (values == 1)[:, None] if case.classes == 1 else values[:, None] == classes
    elif case.mode == "softmax":
        p = values.softmax(1)
        inside = p > 0.5
        near = 1e-14 if case.values.dtype == torch.float64 else 1e-6
        certain = ~((p - 0.5).abs() < near) | (p == 0.5)
    else:
        inside = values > (0 if case.mode == "sigmoid" else 0.5)
    inside = inside.clone()
    inside[:, : case.first] = False
    labels = values if case.mode == "labels" else case.labels
    if labels is not None and case.ignore_index is not None:
        # Widened, because torch would round the number to the labels' dtype.
        labels = labels.double() if labels.is_floating_point() else labels.long()
        inside &= (labels != case.ignore_index)[:, None]
    return inside, certain.expand_as(inside)


def check(found: Tensor, case: Case) -> None:
    """Compare with the definition."""
    inside, certain = exact(case)
    assert found.dtype == torch.bool, case
    assert found.is_contiguous(), case
    assert found.shape == inside.shape, case
    assert bool((found.view(torch.uint8) <= 1).all()), case
    assert torch.equal(found & certain, inside & certain), case


def random_values(
    shape: Sequence[int], dtype: torch.dtype, draw: random.Random, *, strange: bool
) -> Tensor:
    """Return logits or values, some of them equal or, if they may be, not finite."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    values = 3 * torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
    if draw.random() < 0.5:
        values = values.round()  # ties
    if not dtype.is_floating_point:
        return values.abs().to(torch.int64).to(dtype)
    if strange:
        chosen = torch.rand(values.shape, generator=generator) < 0.15
        kind = torch.randint(len(STRANGE), values.shape, generator=generator)
        values = torch.where(chosen, torch.tensor(STRANGE, dtype=torch.float64)[kind], values)
    return values.to(dtype)


def random_labels(
    shape: Sequence[int], classes: int, dtype: torch.dtype, draw: random.Random
) -> Tensor:
    """Return class indices, some of them out of range."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    labels = torch.randint(0, classes + 2, tuple(shape), generator=generator).to(dtype)
    if dtype.is_floating_point:
        odd = torch.rand(labels.shape, generator=generator) < 0.1
        labels[odd] = draw.choice((0.5, torch.nan, torch.inf, -1.0))
    elif dtype != torch.bool:
        limits = torch.iinfo(dtype)
        odd = torch.rand(labels.shape, generator=generator) < 0.1
        labels[odd] = draw.choice((limits.min, limits.max))
    return labels


def random_case(draw: random.Random, *, voxels: int = 3000) -> Case:
    """Return a problem of at most so many voxels."""
    mode, classes = draw.choice(MODES), draw.choice(CLASSES)
    space = draw.choice([space for space in SPACES if torch.Size(space).numel() <= voxels])
    batch, first = draw.choice((1, 2)), draw.choice((0, 0, 1, 2))
    ignored = draw.choice((None, 0, 1, classes, 255, -1, 2**40))
    kind, layout, other = draw.choice(DTYPES), draw.choice(LAYOUTS), draw.choice(LAYOUTS)
    labels = lay_out(random_labels((batch, *space), classes, kind, draw), other)
    if mode == "labels":
        return Case(labels, None, classes, mode, ignored, first)
    dtype = draw.choice(FLOATING if mode != "values" else DTYPES)
    values = random_values((batch, classes, *space), dtype, draw, strange=draw.random() < 0.5)
    beside = labels if draw.random() < 0.5 else None
    return Case(lay_out(values, layout), beside, classes, mode, ignored, first)


def not_finite(dtype: torch.dtype) -> Case:
    """Return a softmax of voxels that have none, and of ones with infinitely small classes."""
    inf, nan = torch.inf, torch.nan
    most = torch.finfo(dtype).max
    rows = [
        *((0, nan, 9), (nan, 9, 0), (9, 0, nan), (nan, nan, nan), (-inf, nan, 3)),
        *((inf, 0, 0), (0, inf, 0), (inf, inf, 0), (inf, -inf, 0), (inf, inf, inf)),
        *((-inf, -inf, 3), (3, -inf, -inf), (-inf, -inf, -inf), (1, 1, -inf), (-inf, 1, 1)),
        *((-most, -inf, -inf), (-inf, -most, -inf), (-most, -most, -inf), (most, -most, 0)),
        *((-most, 0, most), (most, most, 0), (0, 0, 0), (2, 2, 2), (0.0, -0.0, -50)),
    ]
    return Case(torch.tensor(rows, dtype=dtype).T[None], None, 3, "softmax")


def near_one_half(dtype: torch.dtype) -> Case:
    """Return a softmax of a class against others that just make up for it, or just not."""
    generator = torch.Generator().manual_seed(0)
    rest = torch.randn(1, 5, 4000, generator=generator, dtype=torch.float64)
    largest = rest.logsumexp(1, keepdim=True)
    step = torch.linspace(-1e-3, 1e-3, 4000, dtype=torch.float64)
    x = torch.cat([rest, largest + step], 1)
    order = torch.rand(x.shape, generator=generator).argsort(1)
    return Case(x.gather(1, order).to(dtype), None, 6, "softmax")


def far_apart(mode: str, dtype: torch.dtype) -> Case:
    """Return a problem with strides beyond 2^31, over memory of which only what is used exists."""
    far = 2**31 + 5
    values = 3 * torch.randn(1, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    if mode == "labels":
        labels = torch.randint(0, 3, (2, 7), generator=torch.Generator().manual_seed(0))
        rows = unwritten(far + 7, dtype).as_strided((2, 7), (far, 1))
        return Case(rows.copy_(labels), None, 3, mode, 1)
    strided = unwritten(far + 15, dtype).as_strided((1, 2, 3, 5), (2 * far, far, 5, 1))
    return Case(strided.copy_(values), None, 2, mode)


def unwritten(size: int, dtype: torch.dtype) -> Tensor:
    """Return memory that deterministic mode does not fill, as it does that of torch.empty."""
    storage = torch.UntypedStorage(size * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage, 0, (size,), (1,))


def run(machine: Machine, case: Case) -> Tensor:
    """Return the masks of a problem by a machine, on the CPU."""
    values, labels, *options = case.arguments
    if machine.impl == "reference":
        options[1] = case.mode
        return reference.forward(values, labels, *options)
    labels = None if labels is None else machine.place(labels)
    found: Tensor = machine.step()(machine.place(values), labels, *options)
    assert found.device.type == machine.device
    return found.cpu()


def compare(machine: Machine, case: Case) -> None:
    """Run a problem and compare with the definition."""
    check(run(machine, case), case)
