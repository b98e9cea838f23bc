"""The last call of a loss, kept for the next one like it.

A plan depends on much (see _planned), and to look at all of it takes longer than a small volume.
From one step of a training to the next nothing of it changes: it is enough to see that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segloss_fast._impl import setting
from segloss_fast.ops.region_sums import DirectCall, Formula, apply_direct, kinds_of, watched

Like = tuple[torch.Size, torch.dtype]
Tensors = tuple[Any, ...]


class Ready(NamedTuple):
    """A call of a loss with keywords that are those of the next call, too.

    Attributes:
        call: What is left to do, but for the arguments of the program.
        kinds: What input, target and voxel weight were like.
        arguments: What the arguments of the program were like.
        settings: What impl="auto" means, and torch's default dtype, at that call.
        names: The loss's keywords that are the arguments.
        keywords: The object that holds the others: another one where they have been set since.
    """

    call: DirectCall
    kinds: Any
    arguments: tuple[Like, ...]
    settings: tuple[Any, ...]
    names: tuple[str, ...]
    keywords: object

    def __reduce__(self) -> tuple[Any, ...]:
        """Be nothing in copies of a loss and in files: it can be made again."""
        return type(None), ()

    def value(self, tensors: Tensors, arguments: Sequence[Any]) -> Tensor | None:
        """Return the loss of input, target, perhaps voxel weight; None if this is another call.

        Raises:
            ValueError: If labels are out of range.
        """
        if watched() or self.settings != _settings():
            return None
        read = self.kinds.read(tensors, torch.is_grad_enabled())
        if read is None:
            return None
        if not self.arguments:
            return apply_direct(self.call, tensors, read)
        for argument, (shape, dtype) in zip(arguments, self.arguments, strict=True):
            if type(argument) is not Tensor or argument.requires_grad:
                return None
            if argument.shape != shape or argument.dtype is not dtype:
                return None
        return apply_direct(self.call._replace(arguments=tuple(arguments)), tensors, read)


def ready_for(
    formula: Formula,
    tensors: Tensors,
    arguments: Sequence[Any],
    names: tuple[str, ...] = (),
    keywords: object = None,
) -> Ready | None:
    """Return a call that has just been made, None where the next one must look again.

    Args:
        formula: What was computed.
        tensors: Input, target, perhaps a voxel weight, of dtypes that kernels take.
        arguments: Of the program; they may be others the next time.
        names: Of the arguments.
        keywords: What holds the others.
    """
    named = formula.impl if formula.impl != "auto" else setting()
    kinds = kinds_of(tensors) if named in ("auto", "native") else None
    if kinds is None:
        return None
    return Ready(
        DirectCall(formula, "native", (), (1.0,)),
        kinds,
        tuple((argument.shape, argument.dtype) for argument in arguments),
        _settings(),
        names,
        keywords,
    )


def _settings() -> tuple[Any, ...]:
    return setting(), torch.get_default_dtype()
