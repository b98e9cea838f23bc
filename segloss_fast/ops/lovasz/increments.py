"""What each voxel adds to the Jaccard loss, in the order of falling errors: the weights g.

The errors come in groups, of equal errors or of one bin, whose voxels share the average over all
orders within the group. With G foreground voxels in all, F foreground and B background voxels
before the group, U = G + B, and n_f and n_b voxels in it, the averages are

    g_f = (psi(U + n_b + 1) - psi(U)) / (n_b + 1)
    g_b = ((G - F - n_f) (1 / U - 1 / (U + n_b)) + n_f (1 / U - g_f)) / n_b

with psi the digamma function: the difference is the sum of 1 / (U + k), k from 0 to n_b. A single
foreground voxel has 1 / U, a single background voxel (G - F) / (U (U + 1)). Nothing is formed by
subtracting one value of the Jaccard loss from the next, which in float32 leaves no digit where
there are millions of voxels.
"""

from __future__ import annotations

import torch
from torch import Tensor

DIRECT = 16  # so many terms of the harmonic sum are added up; the rest is an asymptotic series


def harmonic(first: Tensor, number: Tensor) -> Tensor:
    """Return the sum of 1 / (first + k), k = 0 .. number - 1, without cancellation.

    Args:
        first: At least 1.
        number: At least 0; both are whole numbers in floating point.
    """
    total = torch.zeros_like(first)
    for k in range(DIRECT):
        total = total + torch.where(number > k, 1 / (first + k), 0)
    a = first + DIRECT
    n = (number - DIRECT).clamp_min(0)
    # psi(x) = log x - 1/(2x) - 1/(12x^2) + 1/(120x^4) - 1/(252x^6) + 1/(240x^8) - 5/(660x^10) ...
    # at a + n less that at a; u^2k - v^2k is (u^2 - v^2) times a sum of positive products.
    u, v = 1 / a, 1 / (a + n)
    uu, vv = u * u, v * v
    d = n * u * v
    dd = d * (u + v)
    sum2 = uu + vv
    sum3 = uu * uu + uu * vv + vv * vv
    sum4 = (uu * uu + vv * vv) * sum2
    sum5 = uu * uu * uu * uu + vv * (uu * uu * uu + vv * sum3)
    series = sum2 / 120 - sum3 / 252 + sum4 / 240 - sum5 / 132
    return total + torch.log1p(n * u) + d / 2 + dd * (1 / 12 - series)


def increments(foreground: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
    """Return g_f and g_b of every group, ``[..., groups]``, 0 for empty ones' g_b.

    Where there is no foreground at all, the first group that is not empty shares 1.

    Args:
        foreground: n_f of the groups in falling order of error, ``[..., groups]``, float64.
        background: n_b, alike.
    """
    total = foreground.sum(-1, keepdim=True)  # G
    left = total - foreground.cumsum(-1)  # G - F - n_f
    before = background.cumsum(-1) - background
    # Whole numbers below 2^53: sums are exact in any order.
    u = (total + before).clamp_min(1)
    g_f = harmonic(u, background + 1) / (background + 1)
    n_b = background.clamp_min(1)
    g_b = left / (u * (u + n_b)) + foreground * (1 / u - g_f) / n_b
    first = (background > 0) & (before == 0)
    g_b = torch.where(total > 0, g_b, torch.where(first, 1 / n_b, 0))
    return torch.where(total > 0, g_f, 0), torch.where(background > 0, g_b, 0)
