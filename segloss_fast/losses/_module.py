"""The base of all loss modules: a function and the keywords to call it with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

WEIGHTS = ("class_weight", "pos_weight", "alpha")


class Loss(nn.Module):
    """Calls a functional loss with fixed keywords.

    Weights per class become buffers, so that ``.to(device)`` moves them; they are not part of the
    state dict, since the constructor's arguments say them.
    """

    def __init__(self, function: Callable[..., Tensor], **keywords: object) -> None:
        super().__init__()
        self._function = function
        self._keywords = {}
        for name, value in keywords.items():
            if name in WEIGHTS and value is not None and not isinstance(value, (int, float)):
                self.register_buffer(name, torch.as_tensor(value), persistent=False)
            else:
                self._keywords[name] = value

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
        return self._function(input, target, voxel_weight, **self._keywords, **self._buffers)

    def extra_repr(self) -> str:
        buffers = {name: buffer.tolist() for name, buffer in self.named_buffers()}
        return ", ".join(
            f"{name}={value!r}" for name, value in {**self._keywords, **buffers}.items()
        )
