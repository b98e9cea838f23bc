"""Definitions of the Lovász losses that the tests compare with, in float64, class by class.

Written from the papers and from the description of the bins, without the package's own code.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Weights = Callable[[Tensor, Tensor], Tensor]  # errors and foreground to g


def errors(x: Tensor, t: Tensor, activation: str) -> Tensor:
    """Return the errors ``[B, C, *S]`` of logits and foreground."""
    t = t.to(x.dtype)
    if activation == "hinge":
        return (1 - x * (2 * t - 1)).clamp_min(0)
    p = x.softmax(1) if activation == "softmax" else 1 / (1 + (-x).exp())
    return (p - t).abs()


def jaccard_loss(t: Tensor, wrong: int) -> float:
    """Return 1 - |t and right| / |t or wrong|, if the first voxels are wrong."""
    foreground = int(t.sum())
    lost = int(t[:wrong].sum())
    union = foreground + wrong - lost
    return 1 - (foreground - lost) / union if union else 0.0


def by_order(t: Tensor) -> Tensor:
    """Return what each voxel adds to the Jaccard loss, in the order they stand in."""
    steps = [jaccard_loss(t, k + 1) - jaccard_loss(t, k) for k in range(t.numel())]
    return torch.tensor(steps, dtype=torch.float64)


def published(m: Tensor, t: Tensor) -> Tensor:
    """Return g by the published algorithm: one order of the voxels, any among equal errors."""
    order = m.argsort(descending=True)
    fg = t[order].to(torch.float64)
    intersection = fg.sum() - fg.cumsum(0)
    union = fg.sum() + (1 - fg).cumsum(0)
    jaccard = 1 - intersection / union
    jaccard[1:] = jaccard[1:] - jaccard[:-1].clone()
    return torch.empty_like(jaccard).scatter_(0, order, jaccard)


def all_orders(m: Tensor, t: Tensor) -> Tensor:
    """Return the mean of g over all orders in which the errors fall; for tiny problems."""
    found = []
    for order in itertools.permutations(range(m.numel())):
        index = torch.tensor(order)
        if (m[index].diff() <= 0).all():
            g = torch.empty(m.numel(), dtype=torch.float64)
            g[index] = by_order(t[index])
            found.append(g)
    return torch.stack(found).mean(0)


def grouped(group: Tensor, t: Tensor) -> Tensor:
    """Return g where the voxels of a group share the average; higher groups come first."""
    _, index = group.unique(return_inverse=True)
    number = int(index.max()) + 1
    in_f = torch.bincount(index[t], minlength=number).tolist()
    in_b = torch.bincount(index[~t], minlength=number).tolist()
    shares = torch.zeros(2, number, dtype=torch.float64)
    total, before, lost = sum(in_f), 0, 0
    for k in reversed(range(number)):
        n_f, n_b = in_f[k], in_b[k]
        u = total + before
        share = math.fsum(1 / (u + k) for k in range(n_b + 1)) / (n_b + 1) if u else 0.0
        start = 1 - (total - lost) / u if u else 0.0
        end = 1 - (total - lost - n_f) / (u + n_b)
        shares[1, k] = share
        if n_b:
            shares[0, k] = (end - start - n_f * share) / n_b
        before, lost = before + n_b, lost + n_f
    return shares[t.long(), index]


def exact(m: Tensor, t: Tensor) -> Tensor:
    """Return g where equal errors share."""
    return grouped(m, t)


def distances(exponent: int, bits: int, end: float) -> Tensor:
    """Return the bounds of bins below ``end``, by distance from the point that they crowd at."""
    steps = torch.arange(2**bits, dtype=torch.float64) / 2**bits
    octaves = [2.0**k for k in range(exponent, 18) if 2.0**k < end]
    return torch.cat([steps * 2.0**exponent, *(unit * (1 + steps) for unit in octaves)])


def edges(octaves: int, bits: int, activation: str) -> Tensor:
    """Return the bounds of the bins, ``[K + 1]``, as errors, in rising order, float64."""
    if activation == "hinge":
        below = 1 - distances(5 - octaves, bits + 1, 1.0)
        above = 1 + distances(5 - octaves, bits + 1, 32.0)
        coarse = distances(5, bits - 1, 2.0**17)
        parts = [below, above, 1 + coarse[coarse >= 32], torch.zeros(1)]
    else:
        d = distances(-octaves - 1, bits, 0.25)
        parts = [d, 0.5 - d, 0.5 + d, 1 - d, torch.tensor([0.25, 0.75])]
    bounds: Tensor = torch.cat([part.double() for part in parts]).unique()
    # Of the hinge, 0 is a bin of its own, between two equal bounds.
    return torch.cat([bounds[:1], bounds]) if activation == "hinge" else bounds


def bin_of(m: Tensor, complement: Tensor, octaves: int, bits: int, activation: str) -> Tensor:
    """Return each error's bin: that of its distance from the nearest point, as a float32."""
    bounds = edges(octaves, bits, activation)

    def rounded(d: Tensor, end: float) -> Tensor:
        return d.float().double().clamp_max(end * (1 - 2.0**-24))

    def above(point: float, d: Tensor, end: float) -> Tensor:
        return torch.searchsorted(bounds, point + rounded(d, end), right=True) - 1

    def below(point: float, d: Tensor, end: float) -> Tensor:
        """Here a bin has its upper bound, where d is least."""
        return torch.searchsorted(bounds, point - rounded(d, end)) - 1

    if activation == "hinge":
        m = m.float()
        found = torch.where(m < 1, below(1, 1 - m, 1), above(1, m - 1, 2.0**16))
        return torch.where(m > 0, found, 0)
    low = m < complement
    e = torch.where(low, m, complement)
    found = torch.where(e < 0.25, above(0, e, 0.25), below(0.5, 0.5 - e, 0.25))
    return torch.where(low, found, bounds.numel() - 2 - found)


def widest(octaves: int, bits: int, activation: str, m: Tensor) -> float:
    """Return the width of the widest bin that an error is in."""
    if activation == "hinge":
        bounds = edges(octaves, bits, activation)
        k = int(torch.searchsorted(bounds, m.max().double()).clamp_min(1))
        return max(float(bounds[k] - bounds[k - 1]), 2.0 ** -(2 + bits))
    return 2.0 ** -(3 + bits)


def images(
    x: Tensor, t: Tensor, counted: Tensor, per_image: bool
) -> Iterator[tuple[int, int, Tensor, Tensor, Tensor]]:
    """Return image, class, and x, t of its voxels, and which they are, of ``[B, C, *S]``."""
    batches = [[b] for b in range(x.shape[0])] if per_image else [list(range(x.shape[0]))]
    for i, items in enumerate(batches):
        where = torch.zeros_like(counted)
        where[items] = counted[items]
        for c in range(x.shape[1]):
            yield i, c, x[:, c][where], t[:, c][where], where


def loss(m: Tensor, t: Tensor, counted: Tensor, per_image: bool, weights: Weights) -> Tensor:
    """Return the loss ``[I, C]`` of errors ``[B, C, *S]``, differentiable in them.

    Args:
        m: Errors.
        t: Foreground, bool.
        counted: Which voxels count, ``[B, *S]``.
        per_image: Whether each item has a loss of its own.
        weights: How g follows from the errors and the foreground of a class.
    """
    rows = m.new_zeros(m.shape[0] if per_image else 1, m.shape[1])
    for i, c, errors, foreground, _ in images(m, t, counted, per_image):
        if errors.numel():
            rows = rows.clone()
            rows[i, c] = (errors * weights(errors.detach(), foreground)).sum()
    return rows
