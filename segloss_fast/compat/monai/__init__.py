"""The segmentation losses of MONAI 1.6.1, by their names.

>>> from segloss_fast.compat.monai import DiceLoss  # instead of: from monai.losses import DiceLoss

MONAI itself is not imported, and is needed only for :func:`patch` and for ``torch.jit.script``.
"""

from __future__ import annotations

from segloss_fast.compat._peers import PEERS
from segloss_fast.compat.monai._patch import patch, unpatch
from segloss_fast.compat.monai.deep_supervision import DeepSupervisionLoss
from segloss_fast.compat.monai.dice import DiceLoss
from segloss_fast.compat.monai.masked import MaskedLoss
from segloss_fast.compat.monai.multi_scale import MultiScaleLoss

# MONAI's second names.
Dice = DiceLoss
ds_loss = DeepSupervisionLoss

__all__ = [
    "DeepSupervisionLoss",
    "Dice",
    "DiceLoss",
    "MaskedLoss",
    "MultiScaleLoss",
    "ds_loss",
    "patch",
    "unpatch",
]

PEERS["monai"].warn_unless_matched()
