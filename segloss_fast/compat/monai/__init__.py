"""The segmentation losses of MONAI 1.6.1, by their names.

>>> from segloss_fast.compat.monai import DiceLoss  # instead of: from monai.losses import DiceLoss

MONAI itself is not imported, and is needed only for :func:`patch` and for ``torch.jit.script``.
"""

from __future__ import annotations

from segloss_fast.compat._peers import PEERS
from segloss_fast.compat.monai._patch import patch, unpatch
from segloss_fast.compat.monai.boundary import BoundaryLoss
from segloss_fast.compat.monai.cldice import SoftclDiceLoss, SoftDiceclDiceLoss
from segloss_fast.compat.monai.compound import DiceCELoss
from segloss_fast.compat.monai.compound_focal import DiceFocalLoss, GeneralizedDiceFocalLoss
from segloss_fast.compat.monai.deep_supervision import DeepSupervisionLoss
from segloss_fast.compat.monai.dice import DiceLoss
from segloss_fast.compat.monai.focal import FocalLoss
from segloss_fast.compat.monai.generalized import GeneralizedDiceLoss
from segloss_fast.compat.monai.hausdorff import HausdorffDTLoss, LogHausdorffDTLoss
from segloss_fast.compat.monai.masked import MaskedLoss
from segloss_fast.compat.monai.masked_dice import MaskedDiceLoss
from segloss_fast.compat.monai.matthews import MCCLoss
from segloss_fast.compat.monai.multi_scale import MultiScaleLoss
from segloss_fast.compat.monai.nacl import NACLLoss
from segloss_fast.compat.monai.tversky import TverskyLoss
from segloss_fast.compat.monai.unified_focal import AsymmetricUnifiedFocalLoss
from segloss_fast.compat.monai.unified_parts import AsymmetricFocalLoss, AsymmetricFocalTverskyLoss
from segloss_fast.compat.monai.wasserstein import GeneralizedWassersteinDiceLoss

# MONAI's second names.
Dice = DiceLoss
dice_ce = DiceCELoss
dice_focal = DiceFocalLoss
ds_loss = DeepSupervisionLoss
generalized_dice = GeneralizedDiceLoss
generalized_dice_focal = GeneralizedDiceFocalLoss
generalized_wasserstein_dice = GeneralizedWassersteinDiceLoss

__all__ = [
    "AsymmetricFocalLoss",
    "AsymmetricFocalTverskyLoss",
    "AsymmetricUnifiedFocalLoss",
    "BoundaryLoss",
    "DeepSupervisionLoss",
    "Dice",
    "DiceCELoss",
    "DiceFocalLoss",
    "DiceLoss",
    "FocalLoss",
    "GeneralizedDiceFocalLoss",
    "GeneralizedDiceLoss",
    "GeneralizedWassersteinDiceLoss",
    "HausdorffDTLoss",
    "LogHausdorffDTLoss",
    "MCCLoss",
    "MaskedDiceLoss",
    "MaskedLoss",
    "MultiScaleLoss",
    "NACLLoss",
    "SoftDiceclDiceLoss",
    "SoftclDiceLoss",
    "TverskyLoss",
    "dice_ce",
    "dice_focal",
    "ds_loss",
    "generalized_dice",
    "generalized_dice_focal",
    "generalized_wasserstein_dice",
    "patch",
    "unpatch",
]

PEERS["monai"].warn_unless_matched()
