r"""The Lovász extension of the Jaccard loss, per class, with or without a sort.

The errors m of a class's voxels, with t = 1 for foreground and 0 for background, are

=========  ==========================================
softmax    abs(t - p), p the softmax over the classes
sigmoid    abs(t - p), p the sigmoid
hinge      max(0, 1 - x (2 t - 1))
=========  ==========================================

and the loss is the sum of m_i g_i, where g_i is what voxel i adds to the Jaccard loss
1 - intersection / union of the set of voxels that are wrong, when they join it in the order of
falling errors. With G foreground voxels in all, of which F, and B background voxels come before,
a foreground voxel adds 1 / (G + B) and a background voxel (G - F) / ((G + B) (G + B + 1)); without
any foreground the largest error alone counts. Voxels of equal error share the average over all
their orders (:mod:`segloss_fast.ops.lovasz.increments`), so that the result does not depend on the
order of the voxels. Sources: Yu & Blaschko 2015, https://arxiv.org/abs/1512.07797; Berman et al.
2018, https://arxiv.org/abs/1705.08790.

Two methods. **sort** is exact. **histogram** treats the voxels of one bin of errors
(:mod:`segloss_fast.ops.lovasz.bins`) as equal in the order, though not in the loss: one pass over
input and target counts foreground and background per bin, a scan over the bins, in float64, gives
g, and backward reads input and target again and looks g up. Nothing of the input's size is saved.
The loss is never further from the exact one than the widest bin that holds voxels;
benchmarks/lovasz_accuracy.py measures it at the default, from 10^4 voxels on, within 1e-5; within
3e-5 where predictions crowd within some bins around one value, and 1e-3 within one bin.

Backward: with s = -1 for foreground and 1 for background, the softmax gives
dL/dx_k = p_k (s_k g_k - sum_j s_j g_j p_j), the sigmoid s g p (1 - p), the hinge s g where m > 0.
The g are held constant: they are a subgradient.

The cross-entropy, if asked for, is the sum of -t log p, and for sigmoid and hinge of
-t log p - (1 - t) log(1 - p) with p the sigmoid of x.
"""

from __future__ import annotations

from segloss_fast.ops.lovasz.bins import layout
from segloss_fast.ops.lovasz.contract import check_method, lovasz, lovasz_counts
from segloss_fast.ops.lovasz.options import ACTIVATIONS, METHODS
from segloss_fast.ops.lovasz.record import LovaszSums

__all__ = [
    "ACTIVATIONS",
    "METHODS",
    "LovaszSums",
    "check_method",
    "layout",
    "lovasz",
    "lovasz_counts",
]
