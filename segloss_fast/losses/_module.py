"""The base of all loss modules: a function and the keywords to call it with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from segloss_fast.ops.region_sums.reference import row_dtype

WEIGHTS = ("class_weight", "pos_weight", "alpha", "distance_matrix")


class Loss(nn.Module):
    """Calls a functional loss with fixed keywords.

    Weights per class become buffers, which follow ``.to(device)`` but keep their precision,
    whatever ``.half()`` does to the model around them. They are not part of the state dict: the
    constructor's arguments say them.

    Attributes:
        shares_sums: Whether the function's keywords are those of Voxel, through which deep
            supervision hands it the sums of a level.
    """

    shares_sums: ClassVar[bool] = True

    def __init__(self, function: Callable[..., Tensor], **keywords: object) -> None:
        super().__init__()
        self._function = function
        self._keywords: dict[str, object] = {}
        self._weights: dict[str, Tensor] = {}
        for name, value in keywords.items():
            if name in WEIGHTS and value is not None and not isinstance(value, (int, float)):
                self._weights[name] = torch.as_tensor(value, dtype=torch.float64, device="cpu")
                device = value.device if isinstance(value, Tensor) else torch.device("cpu")
                exact = self._weights[name].to(device, row_dtype(device))
                self.register_buffer(name, exact, persistent=False)
            else:
                self._keywords[name] = value

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Loss:
        for name, exact in self._weights.items():
            device = fn(exact.float()).device  # float32 exists everywhere
            setattr(self, name, exact.to(device, row_dtype(device)))
        return self

    def forward(self, input: Tensor, target: Tensor, voxel_weight: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            input: ``[B, C, *S]``.
            target: Class indices ``[B, *S]`` or ``[B, 1, *S]``, or values ``[B, C, *S]``.
            voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``.

        Returns:
            A scalar, or ``[B, C']`` rows (``[C']`` where the batch is pooled) for the reduction
            "none".
        """
        return self.call(input, target, voxel_weight)

    def call(
        self,
        input: Tensor,
        target: Tensor,
        voxel_weight: Tensor | None,
        **others: object,
    ) -> Tensor:
        """Return the loss with other keywords beside, or instead of, those of the module."""
        keywords = {**self._keywords, **self._buffers, **others}
        return self._function(input, target, voxel_weight, **keywords)

    @property
    def keywords(self) -> Mapping[str, object]:
        """The keywords that are no weights per class."""
        return self._keywords

    def extra_repr(self) -> str:
        buffers = {name: buffer.tolist() for name, buffer in self.named_buffers()}
        return ", ".join(
            f"{name}={value!r}" for name, value in {**self._keywords, **buffers}.items()
        )


class FieldLoss(Loss):
    """A loss whose field of the target can be computed beforehand, as in a data loader."""

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        voxel_weight: Tensor | None = None,
        target_field: Tensor | None = None,
    ) -> Tensor:
        """Return the loss.

        Args:
            input: ``[B, C, *S]``.
            target: Class indices ``[B, *S]`` or ``[B, 1, *S]``, or values ``[B, C, *S]``.
            voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``.
            target_field: What the loss's class says, floating point.

        Returns:
            A scalar, or ``[B, C']`` rows (``[C']`` where the batch is pooled) for the reduction
            "none".
        """
        if target_field is None:
            return self.call(input, target, voxel_weight)
        return self.call(input, target, voxel_weight, target_field=target_field)
