"""What kernels are compiled for, as records: each is one constant among a kernel's arguments."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import triton
import triton.language as tl

Record = TypeVar("Record", bound=type)


def constants(record: Record) -> Record:
    """Let jitted functions read a record's fields as constants.

    The record holds Python's own numbers, which a launch hashes fast. The compiler of Triton 3.6
    would read them as such, and its own functions take constants only; the interpreter takes
    either, and numbers are faster.
    """
    if not triton.knobs.runtime.interpret:
        for place, name in enumerate(record.__annotations__):
            setattr(record, name, _constant(place))
    return record


def _constant(place: int) -> property:
    def read(record: tuple[Any, ...]) -> Any:
        return tl.constexpr(record[place])

    return property(read)


@constants
class Kind(NamedTuple):
    """What a kernel over tiles is compiled for: one constant among its arguments.

    Attributes:
        C: Classes.
        DENSE: Whether the target has classes.
        TRUTH: Whether it holds truth values, as bytes of which all but 0 are true.
        WEIGHT: NO_WEIGHT, SHARED_WEIGHT, or 2: by class.
        IGNORE: Whether a label can be ignored.
        LAYOUT: PLANES, CHANNELS_LAST or STRIDED.
        UNIT: As ``Plan.unit``.
        BLOCK_C: As ``Plan.block_c``.
        BLOCK_V: As ``Plan.block_v``.
        CLASS_BLOCKS: As ``Plan.class_blocks``.
        FOLD: As ``Plan.fold``.
    """

    C: int
    DENSE: bool
    TRUTH: bool
    WEIGHT: int
    IGNORE: bool
    LAYOUT: int
    UNIT: int
    BLOCK_C: int
    BLOCK_V: int
    CLASS_BLOCKS: int
    FOLD: int
