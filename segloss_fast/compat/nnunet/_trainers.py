"""What makes an nnU-Net trainer one that trains with a loss of this package.

A mixin comes first among the bases, the trainer whose data, network and schedule are wanted last:

    class Mine(HausdorffMixin, nnUNetTrainer_250epochs): ...

They override ``_build_loss`` alone. Nothing of nnU-Net is imported here.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from segloss_fast.compat.nnunet._own import OwnLoss, StockAnd
from segloss_fast.compat.nnunet._version import UPGRADE, too_old
from segloss_fast.compat.nnunet.compound import DC_and_CE_loss, DC_and_topk_loss
from segloss_fast.compat.nnunet.deep_supervision import DeepSupervisionWrapper
from segloss_fast.compat.nnunet.dice import MemoryEfficientSoftDiceLoss
from segloss_fast.compat.nnunet.regions import DC_and_BCE_loss
from segloss_fast.losses._module import Loss
from segloss_fast.losses.boundary import BoundaryLoss, HausdorffDTLoss
from segloss_fast.losses.cldice import SoftClDiceLoss
from segloss_fast.losses.distribution import CrossEntropyLoss, FocalLoss
from segloss_fast.losses.lovasz import LovaszSigmoidLoss, LovaszSoftmaxLoss
from segloss_fast.losses.region import DiceLoss
from segloss_fast.losses.topk import DiceTopKLoss
from segloss_fast.losses.tversky import TverskyLoss
from segloss_fast.losses.weighted_sum import WeightedSum

NEEDED = (
    *("label_manager", "configuration_manager", "is_ddp", "enable_deep_supervision"),
    *("_get_deep_supervision_scales", "_do_i_compile"),
)


class SegLossFastMixin:
    """nnU-Net's own loss: Dice and cross-entropy, or Dice and binary cross-entropy for regions.

    The base of the other mixins, too. One of your own overrides ``_build_loss`` and returns what
    the methods here make:

    * ``segloss_stock()``: nnU-Net's own loss;
    * ``segloss_loss(loss)``: a loss of this package, or a sum of some, such as
      ``segloss_fast.DiceLoss(**self.segloss_overlap()) + 0.5 * segloss_fast.FocalLoss(...)``;
    * ``segloss_stock_and(loss, weight)``: both.

    Raises:
        TypeError: When a class is made in which the mixin comes after a trainer.
    """

    label_manager: Any
    configuration_manager: Any
    is_ddp: bool
    enable_deep_supervision: bool

    def __init_subclass__(cls, **options: Any) -> None:  # noqa: ANN401
        super().__init_subclass__(**options)
        owner = next(base for base in cls.__mro__ if "_build_loss" in vars(base))
        if not issubclass(owner, SegLossFastMixin):
            names = ", ".join(base.__name__ for base in cls.__bases__)
            raise TypeError(
                f"{cls.__name__}({names}) would train with the loss of {owner.__name__}: the mixin "
                "must come first among the bases"
            )

    def _build_loss(self) -> nn.Module:
        return self.segloss_stock()

    def segloss_check(self) -> None:
        """Raise RuntimeError if this is no trainer that the mixins know how to build a loss for."""
        old = too_old()
        missing = [name for name in NEEDED if not hasattr(self, name)]
        if old is not None:
            raise RuntimeError(old)
        if missing:
            raise RuntimeError(
                f"{type(self).__name__} has no {', '.join(missing)}: its bases must end with a "
                f"trainer of nnU-Net 2.8 or later ({UPGRADE})"
            )

    def segloss_spacing(self) -> tuple[float, ...]:
        """Return the voxel size of the patches in millimetres, in the order of their axes.

        The plans have it after nnU-Net's transposition and resampling.

        Raises:
            RuntimeError: If it is not there, or does not fit the patches.
        """
        plans = self.configuration_manager.configuration
        spacing, patch = plans.get("spacing"), plans.get("patch_size")
        fits = spacing is not None and patch is not None and len(spacing) == len(patch)
        if not fits or any(not side > 0 for side in spacing):
            raise RuntimeError(
                f"{type(self).__name__} needs the voxel size, and the plans have spacing {spacing} "
                f"for patches of {patch}: it must hold a positive number of millimetres per axis. "
                "Run nnUNetv2_plan_and_preprocess again, or write it into the configuration in the "
                "plans file"
            )
        return tuple(float(side) for side in spacing)

    def segloss_voxel(self) -> dict[str, Any]:
        """Return the keywords of this package's losses: activation and ignored label."""
        if self.label_manager.has_regions:
            return {"activation": "sigmoid"}
        return {"activation": "softmax", "ignore_index": self.label_manager.ignore_label}

    def segloss_map(self) -> dict[str, Any]:
        """Return those of a loss that leaves the background out where it is a class."""
        return {**self.segloss_voxel(), "include_background": bool(self.label_manager.has_regions)}

    def segloss_overlap(self) -> dict[str, Any]:
        """Return those of a loss like Dice, which pools the batch where nnU-Net's Dice does."""
        batch = bool(self.configuration_manager.batch_dice)
        return {**self.segloss_map(), "batch": batch, "sync": batch and self.is_ddp}

    def segloss_level_weights(self) -> list[float] | None:
        """Return nnU-Net's weights of the levels, None without deep supervision."""
        self.segloss_check()
        if not self.enable_deep_supervision:
            return None
        trainer: Any = self
        levels = len(trainer._get_deep_supervision_scales())
        weights = [0.5**level for level in range(levels)]
        if levels > 1:
            # Without torch.compile DDP asks for a gradient of every parameter.
            weights[-1] = 1e-6 if self.is_ddp and not trainer._do_i_compile() else 0.0
        return [weight / sum(weights) for weight in weights]

    def segloss_supervised(self, loss: nn.Module) -> nn.Module:
        """Return a loss of one output and target as one of all levels, if they are supervised."""
        weights = self.segloss_level_weights()
        return loss if weights is None else DeepSupervisionWrapper(loss, weights)

    def segloss_stock(self) -> nn.Module:
        """Return nnU-Net's own loss."""
        self.segloss_check()
        options = {
            "smooth": 1e-5,
            "ddp": self.is_ddp,
            "do_bg": bool(self.label_manager.has_regions),
        }
        options["batch_dice"] = self.configuration_manager.batch_dice
        ignored, dice = self.label_manager.ignore_label, MemoryEfficientSoftDiceLoss
        loss: nn.Module
        if self.label_manager.has_regions:
            masked = ignored is not None
            loss = DC_and_BCE_loss({}, options, use_ignore_label=masked, dice_class=dice)
        else:
            loss = DC_and_CE_loss(options, {}, ignore_label=ignored, dice_class=dice)
        return self.segloss_supervised(loss)

    def segloss_loss(self, loss: Loss | WeightedSum) -> nn.Module:
        """Return a loss of this package for nnU-Net's outputs and targets, of all levels."""
        weights = self.segloss_level_weights()
        labels = self.label_manager
        masked = labels.has_regions and labels.ignore_label is not None
        return OwnLoss(loss, weights, mask_channel=masked)

    def segloss_stock_and(self, loss: Loss | WeightedSum, weight: float) -> nn.Module:
        """Return nnU-Net's own loss plus ``weight`` times a loss of this package."""
        return StockAnd(self.segloss_stock(), self.segloss_loss(loss), weight)


class HausdorffMixin(SegLossFastMixin):
    """nnU-Net's own loss plus ``map_weight`` times the Hausdorff loss in millimetres."""

    map_weight: ClassVar[float] = 5e-4
    alpha: ClassVar[float] = 2.0

    def _build_loss(self) -> nn.Module:
        spacing = self.segloss_spacing()
        loss = HausdorffDTLoss(alpha=self.alpha, spacing=spacing, **self.segloss_map())
        return self.segloss_stock_and(loss, self.map_weight)


class BoundaryMixin(SegLossFastMixin):
    """nnU-Net's own loss plus ``map_weight`` times the boundary loss in millimetres."""

    map_weight: ClassVar[float] = 1e-2

    def _build_loss(self) -> nn.Module:
        loss = BoundaryLoss(spacing=self.segloss_spacing(), **self.segloss_map())
        return self.segloss_stock_and(loss, self.map_weight)


class LovaszMixin(SegLossFastMixin):
    """Lovász-softmax, or Lovász-sigmoid for regions, plus ``ce_weight`` times cross-entropy.

    Of each image by itself, or of the batch where nnU-Net's Dice pools it.
    """

    ce_weight: ClassVar[float] = 1.0

    def _build_loss(self) -> nn.Module:
        self.segloss_check()
        batch = bool(self.configuration_manager.batch_dice)
        options: dict[str, Any] = {
            "per_image": not batch,
            "sync": batch and self.is_ddp,
            "ce_weight": self.ce_weight,
        }
        if self.label_manager.has_regions:
            return self.segloss_loss(LovaszSigmoidLoss(**options))
        ignored = self.label_manager.ignore_label
        return self.segloss_loss(LovaszSoftmaxLoss(ignore_index=ignored, **options))


class ClDiceMixin(SegLossFastMixin):
    """nnU-Net's own loss plus ``cldice_weight`` times soft clDice, for vessels and the like."""

    cldice_weight: ClassVar[float] = 0.5
    iterations: ClassVar[int] = 3

    def _build_loss(self) -> nn.Module:
        loss = SoftClDiceLoss(iterations=self.iterations, **self.segloss_map())
        return self.segloss_stock_and(loss, self.cldice_weight)


class TopKMixin(SegLossFastMixin):
    """nnU-Net's Dice plus the cross-entropy of the hardest ``k`` percent of the voxels."""

    k: ClassVar[float] = 10.0

    def _build_loss(self) -> nn.Module:
        self.segloss_check()
        if self.label_manager.has_regions:
            return self.segloss_loss(DiceTopKLoss(k=self.k, **self.segloss_overlap()))
        options = {"batch_dice": self.configuration_manager.batch_dice, "smooth": 1e-5}
        options |= {"do_bg": False, "ddp": self.is_ddp}
        ignored = self.label_manager.ignore_label
        return self.segloss_supervised(
            DC_and_topk_loss(options, {"k": self.k}, ignore_label=ignored)
        )


class FocalMixin(SegLossFastMixin):
    """Dice plus ``focal_weight`` times focal loss."""

    focal_weight: ClassVar[float] = 1.0
    gamma: ClassVar[float] = 2.0

    def _build_loss(self) -> nn.Module:
        self.segloss_check()
        focal = FocalLoss(gamma=self.gamma, **self.segloss_voxel())
        return self.segloss_loss(DiceLoss(**self.segloss_overlap()) + self.focal_weight * focal)


class TverskyMixin(SegLossFastMixin):
    """Tversky loss, which weighs missed voxels more, plus ``ce_weight`` times cross-entropy."""

    alpha: ClassVar[float] = 0.3
    beta: ClassVar[float] = 0.7
    ce_weight: ClassVar[float] = 1.0

    def _build_loss(self) -> nn.Module:
        self.segloss_check()
        tversky = TverskyLoss(alpha=self.alpha, beta=self.beta, **self.segloss_overlap())
        return self.segloss_loss(
            tversky + self.ce_weight * CrossEntropyLoss(**self.segloss_voxel())
        )
