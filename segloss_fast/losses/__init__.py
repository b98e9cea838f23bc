"""Losses: formulas over the sums that the primitives return.

Every loss is a module ``XxxLoss(...)`` and a function ``segloss_fast.functional.xxx_loss(input,
target, voxel_weight=None, ...)`` with the same keywords. ``forward(input, target,
voxel_weight=None)`` takes

* ``input`` ``[B, C, *S]``, S of one to three dimensions, float16, bfloat16, float32 or float64, any
  strides;
* ``target``: class indices ``[B, *S]`` or ``[B, 1, *S]`` as bool, uint8, int8 to int64 or floating
  point, or values ``[B, C, *S]``: one-hot, multi-label or soft. With one class truth values and
  integers are labels, 0 and 1, and floating-point numbers are values in [0, 1], in both shapes;
* ``voxel_weight`` ``[B, 1, *S]`` or ``[B, C, *S]``, floating point, multiplied to every voxel's
  share;

and returns float32, or float64 for float64 input. Keywords that all losses have (voxel losses):

* ``activation``: ``"softmax"`` (default), ``"sigmoid"`` or ``"probabilities"`` (input is activated
  already);
* ``include_background``: whether class 0 has a share (default True);
* ``batch``: whether the sums of all items are added before the loss is formed (default False);
* ``class_weight``: C numbers (that of an excluded background is unused); the mean over classes
  becomes the weighted mean;
* ``ignore_index``: voxels with this class index, or with one class this value, do not count, not
  even if the input is NaN there;
* ``reduction``: ``"mean"``, ``"sum"`` or ``"none"``: rows ``[B, C']``, ``[C']`` with
  ``batch=True``. The rows of a voxel loss (cross-entropy, focal) add up, over the classes, to the
  item's mean;
* ``sync``: with whom the sums are added: True (all ranks), ``"auto"`` (all ranks; off without a
  process group), a process group or its name. Every rank returns the same loss, and each gets W
  times its share of the gradient, for W ranks, so that DistributedDataParallel's mean is the global
  gradient. Ranks must call the same losses in the same order;
* ``shards``: what these ranks hold. False (default): other items, of which any rank may have
  none. Means over voxels (cross-entropy, also balanced, shape-aware or penalised by distance,
  focal, TopK, structural similarity) then run over those of all ranks; the other losses, and the
  reduction ``"none"``, need ``batch=True``, and Lovász losses ``per_image=False``. True: parts of
  the same items, B on every rank. Losses that look around each voxel (Hausdorff, shape-aware,
  structural similarity, clDice, those over components) cannot have that; boundary and
  distance-penalised losses need ``target_field``;
* ``impl``: ``"auto"`` (the fastest there is), ``"reference"``, ``"native"`` or ``"triton"``.

Region losses (ratios of sums) have three more:

* ``smooth_nr``, ``smooth_dr``: added to numerator and denominator (default 1e-5 each;
  :class:`~segloss_fast.SensitivitySpecificityLoss` has no ``smooth_nr``);
* ``absent``: what a class without a target voxel, of the item or with ``batch=True`` of the batch,
  is in the mean: ``"keep"`` (default) like any other, ``"skip"`` no part of it, ``"zero"`` a loss
  of 0 (segmentation-models-pytorch's rule). A loss that is one ratio of all classes of an item
  leaves such classes out of its sums with both; an item without any class counts as 0 with
  ``"zero"``.

Losses that compare an overlap (Dice, its log-cosh, Jaccard, Tversky, focal Tversky, and Dice with
cross-entropy, focal or TopK) have ``soft_label`` (default False): with True the overlap of p and t
is the sum of the smaller of the two, so that the loss of a soft target is least, and 0, at p = t.

Compound losses (a region and a distribution loss) have all of these, and reduce to the weighted
sum of what their parts reduce to. :class:`~segloss_fast.DeepSupervisionLoss` wraps any loss and
takes lists.

Boundary losses (over distance fields) have the keywords of voxel losses and ``spacing``, the
distance between neighbouring voxels: one number, or one per axis. Voxels that are ignored are
outside of all masks. Where the target's field can be passed in, ``forward`` has a fourth argument,
``target_field``.

Losses over components (blob loss, and those whose names say so) count every connected component of
a class as much as any other. Their targets are hard: class indices, or 0 and 1 per class. They have
the keywords of region losses, but ``include_background`` is False by default: class 0 has no
components then, unless it is the only class. Items with ``batch=True`` pool their components, not
their sums (:class:`ComponentTverskyLoss`: its weighed sums). ``shards`` must be False. Besides:

* ``lambda_dice``, ``lambda_ce``: factors of Dice and cross-entropy (default 1);
* ``lambda_global``: factor of the DiceCELoss of the whole volume, with the same two factors and the
  common keywords that were given, from the same sums (default 1, as the authors train; 0 leaves the
  part over components alone);
* ``connectivity``: of :func:`segloss_fast.connected_components`; None (default) is ``"full"``;
* ``max_components``: of an item and class, at most. Without it the host reads how many there are,
  which on a GPU waits for the device, and is an error in the capture of a CUDA graph. Where there
  are more, the loss is NaN. Under ``torch.compile`` and ``torch.func`` nobody can look: without it
  there is room for as many as the volume can have. Of a map that is given the map alone does not
  tell without a look; where the data loader knows its largest number, ``forward`` takes it as
  ``count``: an int, or integers on the CPU, of which the largest counts.

Voxels that are ignored are in no component, and may split one; voxel weights weigh sums only. A
component or cell without weight is left out. Maps that a data loader computed are arguments of
``forward``: ``components`` or ``cells``, which ``connectivity`` does not go with.

Lovász losses (a Jaccard loss over errors in falling order) have no ``voxel_weight``, no ``batch``
and no ``activation``, which their names say. Of the keywords above they have
``include_background``, ``class_weight``, ``ignore_index``, ``reduction``, ``sync``, ``shards`` and
``impl``, and

* ``classes``: ``"present"`` (those with a voxel in the target), ``"all"``, or a list of indices;
* ``per_image``: whether the loss is formed for every item and then averaged (default False: the
  batch is pooled). Rows of the reduction ``"none"`` are ``[B, C']`` with it, else ``[C']``; those
  of classes that do not count are 0;
* ``ce_weight``: adds so much times the cross-entropy, from the same pass (default 0). It is that
  of all classes, also of a background that is left out, and ``class_weight`` weighs it too;
* ``method``: ``"sort"`` is exact, ``"histogram"`` many times faster on volumes, ``"auto"``
  (default) exact below 2^18 voxels per class; ``bins``: of the histogram
  (:func:`segloss_fast.lovasz` has both).

Where no voxel counts (all ignored, an empty batch) the loss is 0 with zero gradient. A NaN in a
voxel that counts makes the loss NaN. Empty classes and perfect predictions have finite gradients.

Errors: ``TypeError`` for an unknown keyword, a wrong type or dtype; ``ValueError`` for a wrong
shape, device or value, for class indices outside [0, C) or values of one class outside [0, 1] that
are not ``ignore_index``, and on every rank if the ranks of ``sync`` disagree about classes, dtype
or sums (on a GPU the loss becomes NaN for these, unless :class:`segloss_fast.debug` is on);
``RuntimeError`` if the ``impl`` asked for is not available, or if ``sync`` is asked for without
torch.distributed.
"""

from segloss_fast.losses.balanced import BalancedCrossEntropyLoss, ComboLoss
from segloss_fast.losses.boundary import BoundaryLoss, HausdorffDTLoss, LogHausdorffDTLoss
from segloss_fast.losses.boundary_ce import DistancePenalizedCELoss, ShapeAwareLoss
from segloss_fast.losses.cldice import SoftClDiceLoss, SoftDiceClDiceLoss
from segloss_fast.losses.component import BlobLoss, ComponentTverskyLoss
from segloss_fast.losses.component_cells import BidirectionalComponentLoss, ComponentDiceCELoss
from segloss_fast.losses.compound import DiceCELoss, DiceFocalLoss
from segloss_fast.losses.deep_supervision import DeepSupervisionLoss
from segloss_fast.losses.distribution import CrossEntropyLoss, FocalLoss
from segloss_fast.losses.exp_log import ExpLogLoss
from segloss_fast.losses.generalized_dice import GeneralizedDiceFocalLoss, GeneralizedDiceLoss
from segloss_fast.losses.hausdorff_er import HausdorffERLoss
from segloss_fast.losses.lovasz import LovaszHingeLoss, LovaszSigmoidLoss, LovaszSoftmaxLoss
from segloss_fast.losses.matthews import MCCLoss
from segloss_fast.losses.region import DiceLoss, LogCoshDiceLoss, SensitivitySpecificityLoss
from segloss_fast.losses.skeleton_recall import SkeletonRecallLoss
from segloss_fast.losses.structural import StructuralSimilarityLoss
from segloss_fast.losses.topk import DiceTopKLoss, TopKLoss
from segloss_fast.losses.tversky import FocalTverskyLoss, JaccardLoss, TverskyLoss
from segloss_fast.losses.unified_focal import UnifiedFocalLoss
from segloss_fast.losses.wasserstein import GeneralizedWassersteinDiceLoss
from segloss_fast.losses.weighted_sum import WeightedSum

__all__ = [
    "BalancedCrossEntropyLoss",
    "BidirectionalComponentLoss",
    "BlobLoss",
    "BoundaryLoss",
    "ComboLoss",
    "ComponentDiceCELoss",
    "ComponentTverskyLoss",
    "CrossEntropyLoss",
    "DeepSupervisionLoss",
    "DiceCELoss",
    "DiceFocalLoss",
    "DiceLoss",
    "DiceTopKLoss",
    "DistancePenalizedCELoss",
    "ExpLogLoss",
    "FocalLoss",
    "FocalTverskyLoss",
    "GeneralizedDiceFocalLoss",
    "GeneralizedDiceLoss",
    "GeneralizedWassersteinDiceLoss",
    "HausdorffDTLoss",
    "HausdorffERLoss",
    "JaccardLoss",
    "LogCoshDiceLoss",
    "LogHausdorffDTLoss",
    "LovaszHingeLoss",
    "LovaszSigmoidLoss",
    "LovaszSoftmaxLoss",
    "MCCLoss",
    "SensitivitySpecificityLoss",
    "ShapeAwareLoss",
    "SkeletonRecallLoss",
    "SoftClDiceLoss",
    "SoftDiceClDiceLoss",
    "StructuralSimilarityLoss",
    "TopKLoss",
    "TverskyLoss",
    "UnifiedFocalLoss",
    "WeightedSum",
]
