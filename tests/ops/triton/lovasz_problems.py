"""What the interpreted tests of lovasz share: problems, our answer, and the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from segloss_fast.ops.lovasz import bins, reference, triton_launch
from segloss_fast.ops.lovasz.options import ACTIVATIONS, Options
from tests.helpers import relative_l2

EPSILON = torch.finfo(torch.float32).eps
EDGE = 128  # of the 65536 places in a bin; what float32 errors may be off by
BAD_LABEL = 255


def options(
    activation: str = "softmax",
    octaves: int = 12,
    bits: int = 7,
    per_image: bool = False,
    ignore_index: int | None = None,
    cross_entropy: bool = True,
) -> Options:
    names = (activation, "histogram", octaves, bits)
    return Options(*names, per_image, ignore_index, cross_entropy)


def sample(
    shape: tuple[int, ...], kind: str, o: Options, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Return input and target, every error of which is far from the edges of its bin.

    So a count has one right answer, although float32 has several of the errors.
    """
    generator = torch.Generator().manual_seed(0)
    space = (shape[0], *shape[2:])

    def draw() -> Tensor:
        return (3 * torch.randn(shape, generator=generator)).to(dtype)

    target = torch.randint(0, max(shape[1], 2), space, generator=generator)
    if kind == "dense":
        target = torch.rand(shape, generator=generator)
    if kind == "ignore":
        target[torch.rand(space, generator=generator) < 0.3] = BAD_LABEL
    return redraw(draw, target, o), target


def redraw(draw: Callable[[], Tensor], target: Tensor, o: Options) -> Tensor:
    """Return an input, drawn again wherever an error is near the edge of a bin."""
    x = draw()
    for _ in range(200):
        voxels = reference.read(x.double(), target, o.ignore_index)
        m, other = reference.errors(voxels.x, voxels.foreground, o.activation)
        _, offset, _ = bins.locate(m, other, o)
        edge = (offset < EDGE) | (offset > 65535 - EDGE)
        # Next to these points bins are as narrow as float32 can tell apart.
        edge |= (m - (1 if o.activation == "hinge" else 0.5)).abs() < 2e-2
        if o.activation == "hinge":
            edge &= m > 0
        if voxels.counted is not None:
            edge &= voxels.counted
        near = edge.any(1, keepdim=True)
        if not near.any():
            return x
        x = torch.where(near, draw(), x)
    raise AssertionError("no such input found")


def count(x: Tensor, target: Tensor, o: Options) -> tuple[Tensor, Tensor, Tensor]:
    place = ACTIVATIONS.index(o.activation)
    numbers = (o.octaves, o.bits, o.per_image, o.ignore_index)
    return triton_launch.count(x, target, place, *numbers, o.cross_entropy)


def factors_of(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return gradients of the loss and the cross-entropy, ``[I, C]``."""
    generator = torch.Generator().manual_seed(3)
    of_loss, of_ce = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
    return of_loss.to(rows.device), of_ce.to(rows.device)


def gradient(x: Tensor, target: Tensor, o: Options, counts: Tensor, rows: Tensor) -> Tensor:
    """Return our gradient of random multiples of loss and cross-entropy."""
    _, table = reference.scan(counts, rows, o, torch.float32)
    of_loss, of_ce = factors_of(rows)
    return triton_launch.backward(
        table * of_loss[:, :, None, None].float(),
        of_ce if o.cross_entropy else None,
        x,
        target,
        ACTIVATIONS.index(o.activation),
        o.octaves,
        o.bits,
        o.ignore_index,
    )


def truth(x: Tensor, target: Tensor, o: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Return counts, rows and that gradient, of the reference in float64."""
    x = x.detach().double().requires_grad_()
    counts, rows, _ = reference.count(x, target, o)
    _, table = reference.scan(counts, rows.detach(), o, torch.float64)
    of_loss, of_ce = factors_of(rows)
    total = (reference.weigh(x, target, table, o) * of_loss).sum()
    if o.cross_entropy:
        total = total + (rows[1] * of_ce).sum()
    (grad,) = torch.autograd.grad(total, x)
    return counts, rows.detach(), grad


def ours(x: Tensor, target: Tensor, o: Options) -> tuple[Tensor, Tensor, Tensor]:
    counts, rows, invalid = count(x, target, o)
    assert invalid.tolist() == [0, 0]
    return counts, rows, gradient(x, target, o, counts, rows)


def check(x: Tensor, target: Tensor, o: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Compare ours with the truth; the input must come from :func:`sample`."""
    counts, rows, grad = ours(x, target, o)
    true_counts, true_rows, true_grad = truth(x, target, o)
    assert counts.dtype == torch.int64
    assert torch.equal(counts[0], true_counts[0])
    # Each voxel's place is off by less than EDGE, or else it could be in another bin.
    assert ((counts[1] - true_counts[1]).abs() <= EDGE * counts[0]).all()
    off = (counts[1] - true_counts[1]).abs().sum() / counts[0].sum()
    assert off < 30, f"offsets are off by {off} of 65536 on average"
    torch.testing.assert_close(rows, true_rows, rtol=10 * EPSILON, atol=0)
    assert grad.dtype == x.dtype
    assert grad.stride() == torch.empty_like(x).stride()
    # The interpreter truncates to bfloat16, where a GPU rounds.
    half = 1.0 if x.dtype == torch.bfloat16 else 0.5
    assert relative_l2(grad, true_grad) < max(half * torch.finfo(x.dtype).eps, 5 * EPSILON)
    return counts, rows, grad


def with_ignored(o: Options) -> Options:
    return replace(o, ignore_index=BAD_LABEL)
