"""One function per loss, with the keywords of its module (see :mod:`segloss_fast.losses`)."""

from segloss_fast.losses.compound import dice_ce_loss, dice_focal_loss
from segloss_fast.losses.distribution import cross_entropy_loss, focal_loss
from segloss_fast.losses.region import dice_loss, jaccard_loss, tversky_loss

__all__ = [
    "cross_entropy_loss",
    "dice_ce_loss",
    "dice_focal_loss",
    "dice_loss",
    "focal_loss",
    "jaccard_loss",
    "tversky_loss",
]
