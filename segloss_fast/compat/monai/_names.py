"""Where MONAI defines the losses that have a drop-in, and MONAI's own classes behind a patch."""

from __future__ import annotations

import importlib
import sys

PACKAGE = "monai.losses"
DEFINED = {
    "boundary_loss": ("BoundaryLoss",),
    "cldice": ("SoftclDiceLoss", "SoftDiceclDiceLoss"),
    "dice": (
        "DiceLoss",
        "MaskedDiceLoss",
        "GeneralizedDiceLoss",
        "GeneralizedWassersteinDiceLoss",
        "DiceCELoss",
        "DiceFocalLoss",
        "GeneralizedDiceFocalLoss",
    ),
    "ds_loss": ("DeepSupervisionLoss",),
    "focal_loss": ("FocalLoss",),
    "hausdorff_loss": ("HausdorffDTLoss", "LogHausdorffDTLoss"),
    "mcc_loss": ("MCCLoss",),
    "multi_scale": ("MultiScaleLoss",),
    "nacl_loss": ("NACLLoss",),
    "spatial_mask": ("MaskedLoss",),
    "tversky": ("TverskyLoss",),
    "unified_focal_loss": (
        "AsymmetricFocalTverskyLoss",
        "AsymmetricFocalLoss",
        "AsymmetricUnifiedFocalLoss",
    ),
}
MODULE_OF = {name: f"{PACKAGE}.{module}" for module, names in DEFINED.items() for name in names}
# MONAI's second names, in its submodules; some stand in monai.losses, too.
ALIASES = {
    "Dice": "DiceLoss",
    "dice_ce": "DiceCELoss",
    "dice_focal": "DiceFocalLoss",
    "ds_loss": "DeepSupervisionLoss",
    "generalized_dice": "GeneralizedDiceLoss",
    "generalized_dice_focal": "GeneralizedDiceFocalLoss",
    "generalized_wasserstein_dice": "GeneralizedWassersteinDiceLoss",
}

replaced: dict[str, type] = {}  # MONAI's classes, while the patch hides them


def original(name: str) -> type:
    """Return MONAI's own class, or raise ImportError if MONAI is not installed."""
    importlib.import_module(PACKAGE)
    if name in replaced:
        return replaced[name]
    found: type = vars(sys.modules[MODULE_OF[name]])[name]
    return found
