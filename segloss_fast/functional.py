"""One function per loss, with the keywords of its module (see :mod:`segloss_fast.losses`)."""

from segloss_fast.losses.balanced import balanced_cross_entropy_loss, combo_loss
from segloss_fast.losses.boundary import boundary_loss, hausdorff_dt_loss, log_hausdorff_dt_loss
from segloss_fast.losses.boundary_ce import distance_penalized_ce_loss, shape_aware_loss
from segloss_fast.losses.cldice import soft_cl_dice_loss, soft_dice_cl_dice_loss
from segloss_fast.losses.component import blob_loss, component_tversky_loss
from segloss_fast.losses.component_cells import (
    bidirectional_component_loss,
    component_dice_ce_loss,
)
from segloss_fast.losses.compound import dice_ce_loss, dice_focal_loss
from segloss_fast.losses.deep_supervision import deep_supervision_loss
from segloss_fast.losses.distribution import cross_entropy_loss, focal_loss
from segloss_fast.losses.exp_log import exp_log_loss
from segloss_fast.losses.generalized_dice import generalized_dice_focal_loss, generalized_dice_loss
from segloss_fast.losses.hausdorff_er import hausdorff_er_loss
from segloss_fast.losses.lovasz import (
    lovasz_hinge_loss,
    lovasz_sigmoid_loss,
    lovasz_softmax_loss,
)
from segloss_fast.losses.matthews import mcc_loss
from segloss_fast.losses.region import dice_loss, log_cosh_dice_loss, sensitivity_specificity_loss
from segloss_fast.losses.skeleton_recall import skeleton_recall_loss
from segloss_fast.losses.structural import structural_similarity_loss
from segloss_fast.losses.topk import dice_topk_loss, topk_loss
from segloss_fast.losses.tversky import focal_tversky_loss, jaccard_loss, tversky_loss
from segloss_fast.losses.unified_focal import unified_focal_loss
from segloss_fast.losses.wasserstein import generalized_wasserstein_dice_loss

__all__ = [
    "balanced_cross_entropy_loss",
    "bidirectional_component_loss",
    "blob_loss",
    "boundary_loss",
    "combo_loss",
    "component_dice_ce_loss",
    "component_tversky_loss",
    "cross_entropy_loss",
    "deep_supervision_loss",
    "dice_ce_loss",
    "dice_focal_loss",
    "dice_loss",
    "dice_topk_loss",
    "distance_penalized_ce_loss",
    "exp_log_loss",
    "focal_loss",
    "focal_tversky_loss",
    "generalized_dice_focal_loss",
    "generalized_dice_loss",
    "generalized_wasserstein_dice_loss",
    "hausdorff_dt_loss",
    "hausdorff_er_loss",
    "jaccard_loss",
    "log_cosh_dice_loss",
    "log_hausdorff_dt_loss",
    "lovasz_hinge_loss",
    "lovasz_sigmoid_loss",
    "lovasz_softmax_loss",
    "mcc_loss",
    "sensitivity_specificity_loss",
    "shape_aware_loss",
    "skeleton_recall_loss",
    "soft_cl_dice_loss",
    "soft_dice_cl_dice_loss",
    "structural_similarity_loss",
    "topk_loss",
    "tversky_loss",
    "unified_focal_loss",
]
