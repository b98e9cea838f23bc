r"""Activate the input and sum it against the target over all voxels, in one pass over memory.

With p the activated value, t the target and w the voxel weight (1 if absent, 0 where ignored), each
term is a sum over the voxels of one batch item and class:

============  =====================  ==============  ==================================
tp            w p t                  nll             -w t log p
pred          w p                    nll_neg         -w (1 - t) log(1 - p)
target        w t                    nll_all         -w log p
pred_sq       w p^2                  nll_pow         w t (-log p)^gamma
target_sq     w t^2                  focal           -w t (1 - p)^gamma log p
sq_err        w (p - t)^2            focal_neg       -w (1 - t) p^gamma log(1 - p)
sq_err_pos    w t (p - t)^2          weight          w
abs_err       w abs(p - t)
============  =====================  ==============  ==================================

A product whose factor t (or 1 - t) is exactly 0 is 0, whatever the logarithm. Logarithms come from
the logits: log-softmax, log-sigmoid, and log(1 - softmax) as the log of the sum over the other
classes. For probabilities they are clamped to -100, and their derivative is 1 / max(p, 1e-12),
as in torch's binary cross-entropy.

Backward reads input and target again and writes the gradient: with G_c = dL/dp_c, the softmax gives
dL/dx_k = p_k (G_k - sum_j p_j G_j), and with L_c = dL/d(log p_c), L_k - p_k sum_j L_j.
"""

from __future__ import annotations

from segloss_fast.ops.region_sums.contract import region_sums, region_sums_multi
from segloss_fast.ops.region_sums.options import ACTIVATIONS, TERMS
from segloss_fast.ops.region_sums.record import RegionSums

__all__ = ["ACTIVATIONS", "TERMS", "RegionSums", "region_sums", "region_sums_multi"]
