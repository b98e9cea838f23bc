"""kornia's Hausdorff losses by erosion."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segloss_fast._check import widen
from segloss_fast.compat.kornia import _checks
from segloss_fast.losses._erosion import erosions

CHUNK = 2**20  # values of classes that are eroded together


def share(axes: int) -> float:
    """Return what a neighbour counts: one of so many, of a float32 as kornia has it."""
    return float(torch.tensor(1 / (2 * axes + 1), dtype=torch.float32))


class _ErosionLoss(nn.Module):
    """What the losses of images and of volumes have in common.

    Attributes:
        alpha: The exponent of an erosion's number.
        k: How many erosions there are.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        kernel: The weights of a voxel's neighbours: kornia's buffer, for state dicts only.
    """

    axes: int
    kernel: Tensor

    def __init__(self, alpha: float = 2.0, k: int = 10, reduction: str = "mean") -> None:
        super().__init__()
        self.alpha = alpha
        self.k = k
        self.reduction = reduction
        self.register_buffer("kernel", self.get_kernel())

    def get_kernel(self) -> Tensor:
        """Return what kornia convolves with, ``[1, 1, 3, ...]``."""
        kernel = torch.zeros([3] * self.axes)
        for axis in range(self.axes):
            index: list[int | slice] = [1] * self.axes
            index[axis] = slice(None)
            kernel[tuple(index)] = share(self.axes)
        return kernel[None, None]

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss of probabilities ``[B, C, *S]`` and class indices ``[B, 1, *S]``."""
        pred, target = _checks.tensors(pred, target)
        self._check(pred, target)
        wrong = _check_labels(pred, target)
        x = widen(pred)
        pixels = max(target.numel(), 1)
        maps = []
        for first in range(0, x.shape[1], max(CHUNK // pixels, 1)):
            p = x[:, first : first + max(CHUNK // pixels, 1)]
            c = torch.arange(first, first + p.shape[1], device=p.device)
            t = (target == c.view(-1, *[1] * self.axes)).to(p.dtype)
            found = erosions(p - t, self.alpha, self.k, share(self.axes))
            maps.append(found if self.reduction == "none" else found.sum())
        if self.reduction == "none":
            loss = torch.cat(maps, 1).transpose(0, 1).unsqueeze(2)
        else:
            loss = torch.stack(maps).sum()
            loss = loss / pred.numel() if self.reduction == "mean" else loss
        if wrong is not None:
            loss = torch.where(wrong, torch.nan, loss)
        return loss.to(pred.dtype)

    def _check(self, pred: Tensor, target: Tensor) -> None:
        if pred.dim() != self.axes + 2:
            raise ValueError(
                f"pred must be [B, C, {', '.join('DHW'[-self.axes :])}], of {self.axes} spatial "
                f"dimensions, got shape {list(pred.shape)}"
            )
        expected = (pred.shape[0], 1, *pred.shape[2:])
        if target.shape != expected:
            raise ValueError(
                "target must be class indices, not one-hot: a pred of shape "
                f"{list(pred.shape)} needs {list(expected)}, got {list(target.shape)}"
            )
        if target.dtype != torch.int64:
            raise ValueError(f"target must hold labels of dtype torch.int64, got {target.dtype}")
        _checks.check_device("target", target, pred, ValueError)
        _checks.check_reduction(self.reduction)


def _check_labels(pred: Tensor, target: Tensor) -> Tensor | None:
    """Raise if labels are no class; on a GPU return whether some are, for nobody to wait for."""
    classes = pred.shape[1]
    if torch.compiler.is_compiling() or not target.numel():
        return None
    if target.device.type != "cpu":
        return ((target < 0) | (target >= classes)).any()
    low, high = target.aminmax()
    if low < 0 or high >= classes:
        raise ValueError(
            f"target must hold class indices in [0, {classes}), got values from {int(low)} to "
            f"{int(high)}"
        )
    return None


class HausdorffERLoss(_ErosionLoss):
    """kornia's HausdorffERLoss, of images.

    >>> loss = segloss_fast.compat.kornia.HausdorffERLoss(k=2)
    >>> loss(torch.full((1, 2, 6, 6), 0.5), torch.zeros(1, 1, 6, 6).long())
    tensor(0.)

    Per item and class, ``sum_i i^alpha e_i`` over i = 1 to k, where ``e_0 = (p - t)^2`` and e_i
    follows from e_(i-1) by the mean over a pixel and its four neighbours (0 beyond the border),
    minus one half, cut off at 0, and stretched to [0, 1] where it is not constant. Backward erodes
    the errors again instead of keeping them.

    Args:
        alpha: The exponent of an erosion's number.
        k: How many erosions there are.
        reduction: ``"none"``, which returns ``[C, B, 1, H, W]``, ``"mean"`` or ``"sum"``.

    Raises:
        TypeError: If pred or target is no tensor.
        ValueError: If a shape, the target's dtype or a label is wrong.
        NotImplementedError: If the reduction is unknown.
    """

    axes = 2


class HausdorffERLoss3D(_ErosionLoss):
    """kornia's HausdorffERLoss3D: as :class:`HausdorffERLoss`, of volumes, with six neighbours.

    >>> loss = segloss_fast.compat.kornia.HausdorffERLoss3D(k=2)
    >>> loss(torch.full((1, 2, 6, 6, 6), 0.5), torch.zeros(1, 1, 6, 6, 6).long())
    tensor(0.)

    Args:
        alpha: The exponent of an erosion's number.
        k: How many erosions there are.
        reduction: ``"none"``, which returns ``[C, B, 1, D, H, W]``, ``"mean"`` or ``"sum"``.

    Raises:
        TypeError: If pred or target is no tensor.
        ValueError: If a shape, the target's dtype or a label is wrong.
        NotImplementedError: If the reduction is unknown.
    """

    axes = 3
