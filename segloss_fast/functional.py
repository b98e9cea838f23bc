"""One function per loss, with the keywords of its module (see :mod:`segloss_fast.losses`)."""

from segloss_fast.losses.boundary import boundary_loss, hausdorff_dt_loss, log_hausdorff_dt_loss
from segloss_fast.losses.boundary_ce import distance_penalized_ce_loss, shape_aware_loss
from segloss_fast.losses.cldice import soft_cl_dice_loss, soft_dice_cl_dice_loss
from segloss_fast.losses.compound import dice_ce_loss, dice_focal_loss
from segloss_fast.losses.distribution import cross_entropy_loss, focal_loss
from segloss_fast.losses.hausdorff_er import hausdorff_er_loss
from segloss_fast.losses.region import dice_loss, jaccard_loss, tversky_loss
from segloss_fast.losses.structural import structural_similarity_loss

__all__ = [
    "boundary_loss",
    "cross_entropy_loss",
    "dice_ce_loss",
    "dice_focal_loss",
    "dice_loss",
    "distance_penalized_ce_loss",
    "focal_loss",
    "hausdorff_dt_loss",
    "hausdorff_er_loss",
    "jaccard_loss",
    "log_hausdorff_dt_loss",
    "shape_aware_loss",
    "soft_cl_dice_loss",
    "soft_dice_cl_dice_loss",
    "structural_similarity_loss",
    "tversky_loss",
]
