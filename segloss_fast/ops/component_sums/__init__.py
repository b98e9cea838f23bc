r"""Sums over the voxels of each component, or cell: region_sums with a bin for every voxel.

With the activated input p, the target t (1 where the voxel is of the class, else 0), the weight w
(1 without weights; 0 where ignored) and the voxels V_k of bin k, a row is a sum over V_k per item
and class,

========  =======================  ========  ==============================
tp        w p t                    nll       -w t log p
pred      w p                      nll_neg   -w (1 - t) log(1 - p)
target    w t                      pred_sq   w p^2
weight    w                        fp        w p (1 - t)
fn        w t (1 - p)
========  =======================  ========  ==============================

with the logarithms of :mod:`segloss_fast.ops.region_sums`, whose sums those over all bins add up
to. pred is tp + fp and target tp + fn; what is wrong or missing has a row of its own, since as a
difference it would lose its digits where nearly all is right. Bin 0 is for voxels of no component;
bins may be those of ``connected_components``, and cells those of ``nearest_component``. One pass
forward and one backward for any number of bins. The native kernels add up runs of voxels of one
bin, chunk by chunk in order, so that the rows do not depend on the number of threads; a chunk keeps
the sums of the bins that it meets, and a thread 8 bytes for each bin. A softmax of two classes that
share their bins is the sigmoid of the difference of their logits; that, and a sigmoid of any number
of classes, is computed in explicit vectors, in float32 and half precision, where no voxel is
ignored or weighed and all logits are finite.
"""

from __future__ import annotations

from segloss_fast.ops.component_sums.contract import component_sums
from segloss_fast.ops.component_sums.record import TERMS, ComponentSums

__all__ = ["TERMS", "ComponentSums", "component_sums"]
