"""What becomes of labels that are no class: an error, or NaN where nobody may look at them."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast import _check
from segloss_fast._impl import debug_enabled


def must_mark(invalid: Tensor, input: Tensor, target: Tensor) -> bool:
    """Raise where invalid labels are looked for; return whether they must make the result NaN.

    On the CPU they are looked for. On a GPU finding out would need a synchronisation, which only
    debug mode makes; compilers and torch.func.vmap let nobody look.

    Args:
        invalid: ``[2]``: how many such labels there are, and the first.
        input: ``[B, C, *S]``.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.

    Raises:
        ValueError: If there are some.
    """
    if not _check.can_be_invalid(input, target):
        return False
    if _check.is_batched(invalid):
        return True
    classes, dense = input.shape[1], target.dim() == input.dim()
    if input.device.type == "cpu" and not torch.compiler.is_compiling():
        _check.check_labels(invalid, classes, dense=dense)
    elif debug_enabled():
        check_labels_on_device(invalid, classes, dense=dense)
    else:
        return True
    return False


def marked(values: Tensor, invalid: Tensor, input: Tensor, target: Tensor) -> Tensor:
    """Raise as :func:`must_mark`; return the values, NaN if labels are invalid but not looked for.

    Args:
        values: Of any shape.
        invalid: As for :func:`must_mark`.
        input: Likewise.
        target: Likewise.
    """
    if not must_mark(invalid, input, target):
        return values
    return torch.where(invalid[0] > 0, torch.nan, values)


def check_labels_on_device(invalid: Tensor, classes: int, *, dense: bool = False) -> None:
    """Wait for the device and raise ValueError if labels are out of range, as debug mode does."""
    if invalid.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "debug mode looks at the labels, which needs a synchronisation that the capture of a "
            "CUDA graph forbids; leave debug mode before capturing"
        )
    _check.check_labels(invalid, classes, dense=dense)
