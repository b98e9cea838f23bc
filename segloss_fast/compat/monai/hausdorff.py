"""MONAI's Hausdorff losses by distance transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from segloss_fast.compat._volumes import Volumes, plain
from segloss_fast.compat.monai._base import MonaiLoss, check_reduction, reduce
from segloss_fast.compat.monai._fields import check_rank, is_dense, masks_of, values_of, weighed
from segloss_fast.losses._powers import add_powers, powers
from segloss_fast.losses.fields import distances
from segloss_fast.ops.region_masks import prediction_masks


class HausdorffDTLoss(MonaiLoss):
    """MONAI's HausdorffDTLoss, with its arguments.

    >>> loss = segloss_fast.compat.monai.HausdorffDTLoss(to_onehot_y=True, softmax=True)
    >>> loss(torch.zeros(1, 2, 4, 4), torch.eye(4)[None, None])
    tensor(0.4375)

    Per item and class the mean over voxels of ``(p - t)^2 (d_p^alpha + d_t^alpha)``, d_p and d_t
    the distances to the boundaries of ``p > 0.5`` and ``t > 0.5``, 0 where there is no boundary.
    They are constants of the gradient. The background has no share by default. As in MONAI an
    integer target given per class makes d_t whole numbers, by truncation.

    Args:
        alpha: Exponent of the distances; 2 needs no square roots.
        include_background: Whether the first class has a share.
        to_onehot_y: Whether targets are class indices ``[B, 1, *S]``.
        sigmoid: Whether the input gets a sigmoid.
        softmax: Whether the input gets a softmax.
        other_act: What else the input gets.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, over items and classes.
        batch: Whether the mean is over the voxels of all items.

    Raises:
        TypeError: If ``other_act`` is not callable.
        ValueError: If more than one activation is given, or the reduction is unknown.
    """

    def __init__(
        self,
        alpha: float = 2.0,
        include_background: bool = False,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        reduction: Any = "mean",  # noqa: ANN401
        batch: bool = False,
    ) -> None:
        super().__init__(reduction=check_reduction(reduction))
        self._set_head(include_background, to_onehot_y, sigmoid, softmax, other_act)
        self.alpha = alpha
        self.batch = batch

    @torch.no_grad()
    def distance_field(self, img: Tensor) -> Tensor:
        """Return each voxel's distance to the boundary of ``img > 0.5``, of the dtype of ``img``.

        Args:
            img: ``[B, C, *S]``; every item and class is a mask of its own.
        """
        return distances(plain(img) > 0.5, None, "both", "auto").to(img.dtype)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``[B, C, *S]`` against the same or class indices ``[B, 1, *S]``.

        Raises:
            ValueError: If the input is neither images nor volumes.
            AssertionError: If the target's shape does not fit the input's.
        """
        check_rank("input", input)
        volumes = self._volumes(input, target)
        if type(self).distance_field is HausdorffDTLoss.distance_field:
            field = self._powers(volumes)
        else:
            field = self._own_powers(volumes)
        volumes = weighed(volumes, field, volumes.target, volumes.dtype)
        rows = volumes.sums(("sq_err",)).sq_err / input.shape[2:].numel()
        rows = rows.mean(0, keepdim=True) if self.batch else rows
        return reduce(rows, self.reduction, input.dim() - 2).to(volumes.dtype)

    @torch.no_grad()
    def _powers(self, volumes: Volumes) -> Tensor:
        """Return ``d_p^alpha + d_t^alpha``, ``[B, C, *S]``."""
        x, t, first = volumes.input, volumes.target, volumes.first
        masks = prediction_masks(x, t, activation=volumes.activation, first=first)
        field = powers(masks, None, self.alpha, "auto")
        if is_dense(volumes) and not t.is_floating_point() and t.dtype != torch.bool:
            known = distances(masks_of(volumes), None, "both", "auto").floor_()
            field.add_(known.pow_(self.alpha))
        else:
            field = add_powers(field, masks_of(volumes), None, self.alpha, "auto")
        if first and self.alpha < 0:  # what is left out has no boundary, so no finite power
            field[:, :first] = 0
        return field

    @torch.no_grad()
    def _own_powers(self, volumes: Volumes) -> Tensor:
        """Return the same of a subclass's distances, which it has a class at a time, as MONAI's."""
        fields = [
            torch.cat([self.distance_field(x[:, [c]]).float() for c in range(x.shape[1])], 1)
            for x in values_of(volumes)
        ]
        return fields[0] ** self.alpha + fields[1] ** self.alpha


class LogHausdorffDTLoss(HausdorffDTLoss):
    """MONAI's LogHausdorffDTLoss: ``log(1 + HausdorffDTLoss)`` of what the reduction returns.

    >>> loss = segloss_fast.compat.monai.LogHausdorffDTLoss(to_onehot_y=True, softmax=True)
    >>> loss(torch.zeros(1, 2, 4, 4), torch.eye(4)[None, None])
    tensor(0.3629)

    Its arguments and errors are those of :class:`HausdorffDTLoss`.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss, as :meth:`HausdorffDTLoss.forward`."""
        return super().forward(input, target).log1p()
