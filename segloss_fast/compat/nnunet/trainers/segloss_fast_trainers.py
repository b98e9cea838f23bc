"""Trainers that nnU-Net finds by their names, where nnUNet_extTrainer names this folder.

Nothing else belongs into it: nnU-Net puts it on the module path, imports all files here, and
forgets them again. What the trainers do is in segloss_fast.compat.nnunet.
"""

from __future__ import annotations

import warnings

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from segloss_fast.compat.nnunet import (
    BidirectionalMixin,
    BlobMixin,
    BoundaryMixin,
    ClDiceMixin,
    ComponentMixin,
    ComponentTverskyMixin,
    FocalMixin,
    HausdorffMixin,
    LovaszMixin,
    SegLossFastMixin,
    TopKMixin,
    TverskyMixin,
)


class nnUNetTrainerSegLossFast(SegLossFastMixin, nnUNetTrainer):
    """The stock loss."""


class nnUNetTrainerSegLossFastHausdorff(HausdorffMixin, nnUNetTrainer):
    """The stock loss plus a Hausdorff loss in millimetres."""


class nnUNetTrainerSegLossFastBoundary(BoundaryMixin, nnUNetTrainer):
    """The stock loss plus a boundary loss in millimetres."""


class nnUNetTrainerSegLossFastBlob(BlobMixin, nnUNetTrainer):
    """The stock loss plus blob loss."""


class nnUNetTrainerSegLossFastComponent(ComponentMixin, nnUNetTrainer):
    """The stock loss plus CC-DiceCE, whose cells are by millimetres."""


class nnUNetTrainerSegLossFastBidirectional(BidirectionalMixin, nnUNetTrainer):
    """The stock loss plus BiCC, whose cells are by millimetres."""


class nnUNetTrainerSegLossFastComponentTversky(ComponentTverskyMixin, nnUNetTrainer):
    """The stock loss plus component-adaptive Tversky."""


class nnUNetTrainerSegLossFastLovasz(LovaszMixin, nnUNetTrainer):
    """Lovász-softmax (sigmoid for regions) and cross-entropy."""


class nnUNetTrainerSegLossFastClDice(ClDiceMixin, nnUNetTrainer):
    """The stock loss plus clDice."""


class nnUNetTrainerSegLossFastTopK(TopKMixin, nnUNetTrainer):
    """Dice and the cross-entropy of the hardest voxels."""


class nnUNetTrainerSegLossFastFocal(FocalMixin, nnUNetTrainer):
    """Dice and focal loss."""


class nnUNetTrainerSegLossFastTversky(TverskyMixin, nnUNetTrainer):
    """Tversky loss and cross-entropy."""


def __getattr__(name: str) -> object:
    """Say which trainers there are, where nnU-Net looks for one of ours that there is not."""
    if name.startswith(nnUNetTrainerSegLossFast.__name__):
        names = [
            known for known in globals() if known.startswith(nnUNetTrainerSegLossFast.__name__)
        ]
        warnings.warn(
            f"segloss_fast has no trainer {name}; give -tr one of {', '.join(names)}, or define it "
            "in a folder that nnUNet_extTrainer names",
            stacklevel=2,
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
