"""Mixins of nnU-Net trainers with losses over components, for many small targets."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from segloss_fast.compat.nnunet._trainers import SegLossFastMixin
from segloss_fast.losses.component import BlobLoss, ComponentTverskyLoss
from segloss_fast.losses.component_cells import BidirectionalComponentLoss, ComponentDiceCELoss


class BlobMixin(SegLossFastMixin):
    """nnU-Net's own loss plus ``component_weight`` times blob loss: of each component by itself."""

    component_weight: ClassVar[float] = 1.0

    def _build_loss(self) -> nn.Module:
        self.segloss_check()
        loss = BlobLoss(lambda_global=0.0, **self.segloss_map())
        return self.segloss_stock_and(loss, self.component_weight)


class ComponentMixin(SegLossFastMixin):
    """nnU-Net's own loss plus ``component_weight`` times CC-DiceCE, cells by millimetres."""

    component_weight: ClassVar[float] = 1.0

    def _build_loss(self) -> nn.Module:
        spacing = self.segloss_spacing()
        loss = ComponentDiceCELoss(lambda_global=0.0, spacing=spacing, **self.segloss_map())
        return self.segloss_stock_and(loss, self.component_weight)


class BidirectionalMixin(SegLossFastMixin):
    """nnU-Net's own loss plus ``component_weight`` times BiCC, cells by millimetres."""

    component_weight: ClassVar[float] = 1.0
    alpha: ClassVar[float] = 0.5

    def _build_loss(self) -> nn.Module:
        loss = BidirectionalComponentLoss(
            alpha=self.alpha,
            lambda_global=0.0,
            spacing=self.segloss_spacing(),
            **self.segloss_map(),
        )
        return self.segloss_stock_and(loss, self.component_weight)


class ComponentTverskyMixin(SegLossFastMixin):
    """nnU-Net's own loss plus ``component_weight`` times component-adaptive Tversky."""

    component_weight: ClassVar[float] = 0.1

    def _build_loss(self) -> nn.Module:
        self.segloss_check()
        loss = ComponentTverskyLoss(lambda_global=0.0, **self.segloss_map())
        return self.segloss_stock_and(loss, self.component_weight)
