"""Where MONAI defines the losses that have a drop-in, and MONAI's own classes behind a patch."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

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

replaced: dict[str, type[Any]] = {}  # MONAI's classes, while the patch hides them


def original_module(name: str) -> ModuleType:
    """Return MONAI's module of a loss, or raise ImportError if MONAI is not installed."""
    return importlib.import_module(MODULE_OF[name])


def original(name: str) -> type[Any]:
    """Return MONAI's own class, or raise ImportError if MONAI is not installed."""
    module = original_module(name)
    found: type[Any] = replaced.get(name) or vars(module)[name]
    return found
