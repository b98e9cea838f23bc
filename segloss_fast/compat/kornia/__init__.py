"""The segmentation losses of kornia 0.9.0, by their names; of volumes where it takes images only.

>>> from segloss_fast.compat.kornia import DiceLoss
"""

from __future__ import annotations

from segloss_fast.compat._peers import PEERS
from segloss_fast.compat.kornia.binary_focal import (
    BinaryFocalLossWithLogits,
    binary_focal_loss_with_logits,
)
from segloss_fast.compat.kornia.focal import FocalLoss, focal_loss
from segloss_fast.compat.kornia.hausdorff import HausdorffERLoss, HausdorffERLoss3D
from segloss_fast.compat.kornia.lovasz import (
    LovaszHingeLoss,
    LovaszSoftmaxLoss,
    lovasz_hinge_loss,
    lovasz_softmax_loss,
)
from segloss_fast.compat.kornia.region import DiceLoss, TverskyLoss, dice_loss, tversky_loss

__all__ = [
    "BinaryFocalLossWithLogits",
    "DiceLoss",
    "FocalLoss",
    "HausdorffERLoss",
    "HausdorffERLoss3D",
    "LovaszHingeLoss",
    "LovaszSoftmaxLoss",
    "TverskyLoss",
    "binary_focal_loss_with_logits",
    "dice_loss",
    "focal_loss",
    "lovasz_hinge_loss",
    "lovasz_softmax_loss",
    "tversky_loss",
]

PEERS["kornia"].warn_unless_matched()
