r"""Activate the input and sum it against the target over all voxels, in one pass over memory.

With p the activated value, t the target and w the voxel weight (1 if absent, 0 where ignored), each
term is a sum over the voxels of one batch item and class:

============  =====================  ==============  ==================================
tp            w p t                  sq_err_neg      w (1 - t) (p - t)^2
tp_soft       w min(p, t)            abs_err         w abs(p - t)
fp            w p (1 - t)            nll             -w t log p
fn            w t (1 - p)            nll_neg         -w (1 - t) log(1 - p)
pred          w p                    nll_all         -w log p
target        w t                    nll_pow         w t (-log p)^gamma
pred_sq       w p^2                  focal           -w t (1 - p)^gamma log p
target_sq     w t^2                  focal_neg       -w (1 - t) p^gamma log(1 - p)
sq_err        w (p - t)^2            weight          w
sq_err_pos    w t (p - t)^2
============  =====================  ==============  ==================================

Some are sums of others: pred is tp + fp, target is tp + fn, and sq_err is sq_err_pos + sq_err_neg.
Ask for a part itself where it may be small. As a difference it has the rounding of the large sums,
and backward adds two large coefficients of opposite signs at every voxel, next to which little is
left of what they should add up to. Where p and t are equal the derivative of min(p, t) is a half,
as torch's.

A product whose factor t (or 1 - t) is exactly 0 is 0, whatever the logarithm. Logarithms come from
the logits: log-softmax, log-sigmoid, and log(1 - softmax) as the log of the sum over the other
classes. For probabilities they are clamped to -100, and their derivative is 1 / max(p, 1e-12),
as in torch's binary cross-entropy.

Backward reads input and target again and writes the gradient: with G_c = dL/dp_c, the softmax gives
dL/dx_k = p_k (G_k - sum_j p_j G_j), and with L_c = dL/d(log p_c), L_k - p_k sum_j L_j.
"""

from __future__ import annotations

from segloss_fast.ops._voxels.maps import ACTIVATIONS
from segloss_fast.ops.region_sums.contract import (
    choose,
    region_sums,
    region_sums_multi,
)
from segloss_fast.ops.region_sums.direct import DirectCall, kinds_of, read_plain, watched
from segloss_fast.ops.region_sums.formula import Formula, apply_direct, region_formula
from segloss_fast.ops.region_sums.intercept import answered_by, answering
from segloss_fast.ops.region_sums.options import (
    GAMMA_TERMS,
    TERMS,
    WITHOUT_INPUT,
    Options,
    options_of,
)
from segloss_fast.ops.region_sums.record import RegionSums

__all__ = [
    "ACTIVATIONS",
    "GAMMA_TERMS",
    "TERMS",
    "WITHOUT_INPUT",
    "DirectCall",
    "Formula",
    "Options",
    "RegionSums",
    "answered_by",
    "answering",
    "apply_direct",
    "choose",
    "kinds_of",
    "options_of",
    "read_plain",
    "region_formula",
    "region_sums",
    "region_sums_multi",
    "watched",
]
