"""MONAI's DeepSupervisionLoss: the weighted sum of any loss over levels of different size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss

from segloss_fast.compat._volumes import plain
from segloss_fast.compat.monai._script import Scriptable

_FLAT_DTYPES = (torch.bool, torch.int8, torch.int16, torch.int32, torch.int64)


class DeepSupervisionLoss(Scriptable, _Loss):
    """MONAI's DeepSupervisionLoss, with its arguments.

    >>> from segloss_fast.compat.monai import DeepSupervisionLoss, DiceLoss
    >>> loss = DeepSupervisionLoss(DiceLoss(to_onehot_y=True, softmax=True))
    >>> loss([torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2)], torch.zeros(1, 1, 4, 4))
    tensor(1.0000)

    The sum over levels l of ``w[l] * loss(input[l], target)``, each level in float32, with the
    nearest voxels of the target where the level is of another size. The weights are not normalised.

    Args:
        loss: Any loss of an input and a target.
        weight_mode: How the levels are weighted: ``"exp"`` is 1, 1/2, 1/4, ..., at least 1/16;
            ``"two"`` is 1, 1/2, 1/2, ...; ``"same"``, and any other, is 1.
        weights: The levels' weights instead; not used if they are fewer than the levels.
    """

    loss: Callable[[Tensor, Tensor], Tensor]

    def __init__(
        self,
        loss: Callable[[Tensor, Tensor], Tensor],
        weight_mode: str = "exp",
        weights: list[float] | None = None,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.weight_mode = weight_mode
        self.weights = weights
        self.interp_mode = "nearest-exact"

    def get_weights(self, levels: int = 1) -> list[float]:
        """Return the weights of so many levels, of one at least."""
        levels = max(1, levels)
        if self.weights is not None and len(self.weights) >= levels:
            return self.weights[:levels]
        if self.weight_mode == "exp":
            return [max(0.5**level, 0.0625) for level in range(levels)]
        if self.weight_mode == "two":
            return [1.0, *[0.5] * (levels - 1)]
        return [1.0] * levels

    def get_loss(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of one level ``[B, C, *S]`` against a target of any size."""
        if input.shape[2:] != target.shape[2:]:
            target = _resized(target, input.shape[2:], self.interp_mode)
        return self.loss(input, target)

    def forward(self, input: Tensor | Sequence[Tensor] | None, target: Tensor) -> Tensor:
        """Return the loss of the levels, a list or one tensor, each ``[B, C, *S]``.

        Raises:
            ValueError: If the input is None.
        """
        if input is None:
            raise ValueError("input must be a tensor or a list of them, got None")
        ours = isinstance(self.loss, Scriptable)  # which take a plain tensor, cheap to resize
        if ours:
            target = plain(target)
        if not isinstance(input, (list, tuple)):
            return self.loss(input.float(), target)  # type: ignore[union-attr]
        total = torch.tensor(0, dtype=torch.float, device=target.device)
        for weight, level in zip(self.get_weights(len(input)), input, strict=False):
            level = (plain(level) if ours else level).float()
            total += weight * self.get_loss(level, target)
        return total


def _resized(target: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """Return a target of another size; integers as well, which torch does not resize."""
    if target.dtype not in _FLAT_DTYPES:
        return F.interpolate(target, size=size, mode=mode)
    for axis, new in enumerate(size, 2):
        places = torch.arange(target.shape[axis], dtype=torch.float32, device=target.device)
        index = F.interpolate(places[None, None], size=new, mode=mode)
        target = target.index_select(axis, index.flatten().long())
    return target
