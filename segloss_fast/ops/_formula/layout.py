"""Lays out what was recorded in the array of a program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segloss_fast.ops._formula.program import Program, Step, View, pack

if TYPE_CHECKING:
    from segloss_fast.ops._formula.recorder import Recorder


def assemble(
    recorder: Recorder, arguments: list[int], loss: tuple[Tensor, View, int], grad: Tensor
) -> Program:
    """Lay out the array: constants, arguments, rows, gradient, the rest."""
    slots, value, values = recorder.slots, loss[1], loss[2]
    assert recorder.leaf is not None
    rows, gradient = recorder.view(recorder.leaf).slot, recorder.view(grad).slot
    needed = _needed(recorder.steps, {value.slot, gradient})
    kept = [step for step, is_needed in zip(recorder.steps, needed, strict=True) if is_needed]
    used = {view.slot for step in kept for view in (step.out, *step.operands)} | {value.slot}
    constants = [slot for slot in sorted(used) if slots[slot].constants]
    fixed = [*constants, *range(len(arguments)), rows, gradient]
    places, place = [0] * len(slots), 0
    for slot in [*fixed, *sorted(used.difference(fixed))]:
        places[slot] = place
        place += slots[slot].size
    shape = tuple(grad.shape)
    return Program(
        tuple(pack(step, places) for step in kept),
        sum(needed[:values]),
        tuple(number for slot in constants for number in slots[slot].constants),
        tuple(arguments),
        (shape[0], shape[1], shape[2]),
        place,
        places[value.slot] + value.offset,
        loss[0].dtype == torch.float32,
    )


def _needed(steps: Sequence[Step], wanted: set[int]) -> list[bool]:
    """Return which steps have a share in the slots that are wanted."""
    found = []
    for step in reversed(steps):
        needed = step.out.slot in wanted
        if needed:
            wanted |= {view.slot for view in step.operands}
        found.append(needed)
    return found[::-1]
