"""MONAI's MaskedLoss: any loss, of an input and a target that a mask multiplies."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.modules.loss import _Loss

from segloss_fast.compat._volumes import plain
from segloss_fast.compat.monai._script import Scriptable

NO_MASK = "No mask value specified for the MaskedLoss."


class MaskedLoss(Scriptable, _Loss):
    """MONAI's MaskedLoss, with its arguments.

    >>> from segloss_fast.compat.monai import DiceLoss, MaskedLoss
    >>> loss = MaskedLoss(DiceLoss, sigmoid=True)
    >>> x, target, mask = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4), torch.eye(4)[None, None]
    >>> loss(x, target, mask)
    tensor(0.6667)

    ``loss(input * mask, target * mask)``: the mask multiplies what the loss is given, before its
    activation.

    Args:
        loss: A loss, any callable of an input and a target, or the class of one.
        *loss_args: What the class is constructed with.
        **loss_kwargs: What the class is constructed with.

    Raises:
        ValueError: If the loss is not callable.
    """

    loss: Callable[[Tensor, Tensor], Tensor]

    def __init__(self, loss: Any, *loss_args: Any, **loss_kwargs: Any) -> None:  # noqa: ANN401
        super().__init__()
        made: Any = loss(*loss_args, **loss_kwargs) if inspect.isclass(loss) else loss
        self.loss = made
        if not callable(made):
            raise ValueError(
                "loss must be a callable of an input and a target, or a class of such, got "
                f"{type(made).__name__}"
            )

    def forward(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss of a masked input against a masked target.

        Args:
            input: ``[B, C, *S]``.
            target: What the loss compares it with.
            mask: ``[B, 1, *S]`` or ``[1, 1, *S]``; without one the loss is called as it is, with a
                warning.

        Raises:
            ValueError: If the mask has another number of items, or more than one channel.
        """
        if mask is None:
            warnings.warn(NO_MASK, stacklevel=2)
            return self.loss(input, target)
        check_mask(input, target, mask)
        if isinstance(self.loss, Scriptable):  # which take a plain tensor, whose products are cheap
            input, target, mask = plain(input), plain(target), plain(mask)
        return self.loss(input * mask, target * mask)


def check_mask(input: Tensor, target: Tensor, mask: Tensor) -> None:
    """Raise MONAI's errors of the shape of a mask that multiplies, and give its warnings."""
    shapes = f"mask {list(mask.shape)}, input {list(input.shape)}"
    if input.dim() != mask.dim():
        warnings.warn(f"mask and input differ in the number of dimensions: {shapes}", stacklevel=3)
    if mask.shape[0] not in (1, input.shape[0]):
        raise ValueError(f"mask must hold one item or as many as the input, got {shapes}")
    if target.dim() < 2:
        return
    if mask.shape[1] != 1:
        raise ValueError(f"mask must have one channel, got {shapes}")
    if input.shape[2:] != mask.shape[2:]:
        warnings.warn(f"mask and input differ in their spatial sizes: {shapes}", stacklevel=3)
