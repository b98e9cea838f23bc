"""nnU-Net's losses by their names and arguments, with its numbers, and trainers for nnU-Net.

>>> from segloss_fast.compat.nnunet import DC_and_CE_loss
>>> loss = DC_and_CE_loss({"batch_dice": False, "do_bg": False, "smooth": 1e-5, "ddp": False}, {})
>>> loss(torch.zeros(1, 2, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.int16))
tensor(0.6931)

They give the numbers of nnU-Net 2.8.1, and need no nnU-Net. Dice is negative, as nnU-Net's. The
mixins make trainers; those in the folder TRAINERS nnU-Net finds by their names.
"""

from __future__ import annotations

from segloss_fast.compat._peers import PEERS
from segloss_fast.compat.nnunet._component_trainers import (
    BidirectionalMixin,
    BlobMixin,
    ComponentMixin,
    ComponentTverskyMixin,
)
from segloss_fast.compat.nnunet._sums import softmax_helper_dim1
from segloss_fast.compat.nnunet._trainers import (
    BoundaryMixin,
    ClDiceMixin,
    FocalMixin,
    HausdorffMixin,
    LovaszMixin,
    SegLossFastMixin,
    TopKMixin,
    TverskyMixin,
)
from segloss_fast.compat.nnunet._version import TRAINERS, too_old
from segloss_fast.compat.nnunet.compound import DC_and_CE_loss, DC_and_topk_loss
from segloss_fast.compat.nnunet.cross_entropy import RobustCrossEntropyLoss, TopKLoss
from segloss_fast.compat.nnunet.deep_supervision import DeepSupervisionWrapper
from segloss_fast.compat.nnunet.dice import MemoryEfficientSoftDiceLoss, SoftDiceLoss
from segloss_fast.compat.nnunet.regions import DC_and_BCE_loss

__all__ = [
    "TRAINERS",
    "BidirectionalMixin",
    "BlobMixin",
    "BoundaryMixin",
    "ClDiceMixin",
    "ComponentMixin",
    "ComponentTverskyMixin",
    "DC_and_BCE_loss",
    "DC_and_CE_loss",
    "DC_and_topk_loss",
    "DeepSupervisionWrapper",
    "FocalMixin",
    "HausdorffMixin",
    "LovaszMixin",
    "MemoryEfficientSoftDiceLoss",
    "RobustCrossEntropyLoss",
    "SegLossFastMixin",
    "SoftDiceLoss",
    "TopKLoss",
    "TopKMixin",
    "TverskyMixin",
    "softmax_helper_dim1",
    "too_old",
]

PEERS["nnunet"].warn_unless_matched()
