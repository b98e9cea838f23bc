"""The losses that the demo trains with."""

from __future__ import annotations

from torch import Tensor, nn

import segloss_fast

LOSSES = ("dice_ce", "dice_ce_hausdorff")
LAMBDA_HAUSDORFF = 0.1  # of the logarithm, which stays of the order of one


class DiceCEHausdorff(nn.Module):
    """``DiceCELoss + 0.1 LogHausdorffDTLoss``, the latter without the background, in mm."""

    def __init__(self, impl: str, spacing: float) -> None:
        super().__init__()
        self.region = segloss_fast.DiceCELoss(batch=True, impl=impl)
        self.boundary = segloss_fast.LogHausdorffDTLoss(
            include_background=False, batch=True, spacing=spacing, impl=impl
        )

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        region: Tensor = self.region(input, target)
        boundary: Tensor = self.boundary(input, target)
        return region + LAMBDA_HAUSDORFF * boundary


def make_loss(name: str, impl: str, spacing: float) -> nn.Module:
    """Return a loss of the demo, pooled over the batch, since a small patch may lack a class.

    Args:
        name: One of LOSSES.
        impl: As of any loss of segloss_fast.
        spacing: Side of a voxel in mm.
    """
    if name == "dice_ce":
        return segloss_fast.DiceCELoss(batch=True, impl=impl)
    return DiceCEHausdorff(impl, spacing)
