"""Losses: formulas over the sums that the primitives return.

Every loss is a module ``XxxLoss(...)`` and a function ``segloss_fast.functional.xxx_loss(input,
target, voxel_weight=None, ...)`` with the same keywords. ``forward(input, target,
voxel_weight=None)`` takes

* ``input`` ``[B, C, *S]``, S of one to three dimensions, float16, bfloat16, float32 or float64, any
  strides;
* ``target``: class indices ``[B, *S]`` or ``[B, 1, *S]`` of any integer or floating dtype (with one
  class, t is 1 where they are not 0), or values ``[B, C, *S]``: one-hot, multi-label or soft;
* ``voxel_weight`` ``[B, 1, *S]`` or ``[B, C, *S]``, floating point, multiplied to every voxel's
  share;

and returns float32, or float64 for float64 input. Keywords that all losses have (voxel losses):

* ``activation``: ``"softmax"`` (default), ``"sigmoid"`` or ``"probabilities"`` (input is activated
  already);
* ``include_background``: whether class 0 has a share (default True);
* ``batch``: whether the sums of all items are added before the loss is formed (default False);
* ``class_weight``: C numbers (that of an excluded background is unused); the mean over classes
  becomes the weighted mean;
* ``ignore_index``: voxels with this class index do not count, not even if the input is NaN there;
* ``reduction``: ``"mean"``, ``"sum"`` or ``"none"``: rows ``[B, C']``, ``[C']`` with
  ``batch=True``. The rows of a voxel loss (cross-entropy, focal) add up, over the classes, to the
  item's mean;
* ``sync``: True, a process group or its name adds the sums over its ranks: over the batch with
  ``batch=True``, over spatial shards of the same items without (all ranks then have the same B).
  Every rank returns the same loss, and each gets W times its share of the gradient, for W ranks, so
  that DistributedDataParallel's mean is the global gradient;
* ``impl``: ``"auto"`` (the fastest there is), ``"reference"``, ``"native"`` or ``"triton"``.

Region losses (ratios of sums) have three more:

* ``smooth_nr``, ``smooth_dr``: added to numerator and denominator (default 1e-5 each);
* ``absent``: ``"keep"`` (default) or ``"skip"``: whether classes without a target voxel, of the
  item or with ``batch=True`` of the batch, have a share in the mean.

Boundary losses (over distance fields) have the keywords of voxel losses and ``spacing``, the
distance between neighbouring voxels: one number, or one per axis. Voxels that are ignored are
outside of all masks. Where the target's field can be passed in, ``forward`` has a fourth argument,
``target_field``.

Where no voxel counts (all ignored, an empty batch) the loss is 0 with zero gradient. A NaN in a
voxel that counts makes the loss NaN. Empty classes and perfect predictions have finite gradients.

Errors: ``TypeError`` for an unknown keyword, a wrong type or dtype; ``ValueError`` for a wrong
shape, device or value, and for class indices outside [0, C) that are not ``ignore_index`` (on a GPU
the loss becomes NaN, unless :class:`segloss_fast.debug` is on); ``RuntimeError`` if the ``impl``
asked for is not available.
"""

from segloss_fast.losses.boundary import BoundaryLoss, HausdorffDTLoss, LogHausdorffDTLoss
from segloss_fast.losses.boundary_ce import DistancePenalizedCELoss, ShapeAwareLoss
from segloss_fast.losses.cldice import SoftClDiceLoss, SoftDiceClDiceLoss
from segloss_fast.losses.compound import DiceCELoss, DiceFocalLoss
from segloss_fast.losses.distribution import CrossEntropyLoss, FocalLoss
from segloss_fast.losses.hausdorff_er import HausdorffERLoss
from segloss_fast.losses.region import DiceLoss, JaccardLoss, TverskyLoss
from segloss_fast.losses.structural import StructuralSimilarityLoss

__all__ = [
    "BoundaryLoss",
    "CrossEntropyLoss",
    "DiceCELoss",
    "DiceFocalLoss",
    "DiceLoss",
    "DistancePenalizedCELoss",
    "FocalLoss",
    "HausdorffDTLoss",
    "HausdorffERLoss",
    "JaccardLoss",
    "LogHausdorffDTLoss",
    "ShapeAwareLoss",
    "SoftClDiceLoss",
    "SoftDiceClDiceLoss",
    "StructuralSimilarityLoss",
    "TverskyLoss",
]
