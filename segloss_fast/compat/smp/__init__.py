"""The losses of segmentation-models-pytorch 0.6.0, by their names.

>>> from segloss_fast.compat.smp import DiceLoss

The functions of its ``losses._functional`` are here too.
"""

from __future__ import annotations

from segloss_fast.compat._peers import PEERS
from segloss_fast.compat.smp._functional import (
    focal_loss_with_logits,
    label_smoothed_nll_loss,
    soft_dice_score,
    soft_jaccard_score,
    soft_tversky_score,
    softmax_focal_loss_with_logits,
    wing_loss,
)
from segloss_fast.compat.smp.constants import BINARY_MODE, MULTICLASS_MODE, MULTILABEL_MODE
from segloss_fast.compat.smp.dice import DiceLoss
from segloss_fast.compat.smp.focal import FocalLoss
from segloss_fast.compat.smp.jaccard import JaccardLoss
from segloss_fast.compat.smp.lovasz import LovaszLoss
from segloss_fast.compat.smp.mcc import MCCLoss
from segloss_fast.compat.smp.soft_bce import SoftBCEWithLogitsLoss
from segloss_fast.compat.smp.soft_ce import SoftCrossEntropyLoss
from segloss_fast.compat.smp.tversky import TverskyLoss

__all__ = [
    "BINARY_MODE",
    "MULTICLASS_MODE",
    "MULTILABEL_MODE",
    "DiceLoss",
    "FocalLoss",
    "JaccardLoss",
    "LovaszLoss",
    "MCCLoss",
    "SoftBCEWithLogitsLoss",
    "SoftCrossEntropyLoss",
    "TverskyLoss",
    "focal_loss_with_logits",
    "label_smoothed_nll_loss",
    "soft_dice_score",
    "soft_jaccard_score",
    "soft_tversky_score",
    "softmax_focal_loss_with_logits",
    "wing_loss",
]

PEERS["smp"].warn_unless_matched()
