"""MONAI's boundary loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from segloss_fast.compat._volumes import plain
from segloss_fast.compat.monai._base import MonaiLoss, check_reduction, reduce
from segloss_fast.compat.monai._fields import check_rank, is_dense, masks_of, values_of, weighed
from segloss_fast.losses.fields import boundary_map


class BoundaryLoss(MonaiLoss):
    """MONAI's BoundaryLoss, with its arguments.

    >>> loss = segloss_fast.compat.monai.BoundaryLoss(to_onehot_y=True, softmax=True)
    >>> loss(torch.zeros(1, 2, 4, 4), torch.eye(4)[None, None])
    tensor(0.2500)

    Per item and class the mean over voxels of ``p phi``, phi the signed distance to the boundary of
    the target: positive outside, ``-(distance - 1)`` inside, 0 where there is no boundary.

    Args:
        include_background: Whether the first class has a share.
        to_onehot_y: Whether targets are class indices ``[B, 1, *S]`` or ``[B, *S]``.
        sigmoid: Whether the input gets a sigmoid.
        softmax: Whether the input gets a softmax.
        other_act: What else the input gets.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, over items and classes.
        batch: Whether the items' mean is taken first.

    Raises:
        TypeError: If ``other_act`` is not callable.
        ValueError: If more than one activation is given, or the reduction is unknown.
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        reduction: Any = "mean",  # noqa: ANN401
        batch: bool = False,
    ) -> None:
        super().__init__(reduction=check_reduction(reduction))
        self._set_head(include_background, to_onehot_y, sigmoid, softmax, other_act)
        self.batch = batch

    @torch.no_grad()
    def compute_distance_map(self, target: Tensor) -> Tensor:
        """Return phi of values ``[B, C, *S]``, float32.

        Raises:
            ValueError: If the target is neither images nor volumes.
        """
        check_rank("target", target)
        return boundary_map(plain(target) > 0.5, None, "auto")

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``[B, C, *S]`` against the same or class indices ``[B, 1, *S]``.

        Raises:
            ValueError: If the input is neither images nor volumes.
            AssertionError: If the target's shape does not fit the input's.
        """
        check_rank("input", input)
        if self.to_onehot_y and target.dim() == input.dim() - 1 and input.shape[1] > 1:
            target = target.unsqueeze(1)
        volumes = self._volumes(input, target)
        with torch.no_grad():
            masks = masks_of(volumes)
            if type(self).compute_distance_map is BoundaryLoss.compute_distance_map:
                field = boundary_map(masks, None, "auto")
            else:
                field = self.compute_distance_map(values_of(volumes)[1])
        # Nothing is compared with the target itself, whose dtype and values have no other share.
        compared = masks if is_dense(volumes) else volumes.target
        volumes = weighed(volumes, field, compared, volumes.input.dtype)
        rows = volumes.sums(("pred",)).pred / input.shape[2:].numel()
        return reduce(rows.mean(0) if self.batch else rows, self.reduction).to(volumes.dtype)
