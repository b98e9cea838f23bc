"""The device as the model sees it: a few numbers of an H200, and how they make a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

NAME = "H200"
MULTIPROCESSORS = 132
COPY = 4.3e12  # bytes per second, read and written, of a large copy
ISSUED = 1.0e12  # instructions of a warp per second: 4 per cycle and multiprocessor at 1.9 GHz
REGISTERS, WARPS, BLOCKS = 65536, 64, 32  # of a multiprocessor
ROUND_TRIP = 0.6  # microseconds from asking memory to adding what came, with cold addresses
SYNCHRONISED = 0.8  # microseconds of a short kernel besides: launch, barriers, exchanges, the end
# Parts of the limits that well-written kernels reach: of copies, of issue slots.
OF_COPY, OF_ISSUE = 0.92, 0.85
SHARPNESS = 4  # the higher, the less the smaller of two limits costs beside the larger


@dataclass(frozen=True)
class Kernel:
    """What was counted of one launch, and the microseconds that follow.

    Attributes:
        name: Of the function.
        direction: ``"forward"`` or ``"backward"``.
        bytes: That it must move to and from memory.
        instructions: Of a thread, per element of the input, in the innermost loop.
        elements: Of the input.
        warps: Of a program.
        registers: Of a thread.
        spills: Instructions in the loop that spill.
        programs: Of the launch.
        round_trips: Of a short kernel, whose time is that of waiting: how often it waits; else 0.
        around: Instructions per element of the loops around the innermost one.
    """

    name: str
    direction: str
    bytes: int
    instructions: float
    elements: int
    warps: int
    registers: int
    spills: int
    programs: int
    round_trips: int = 0
    around: float = 0.0

    @property
    def resident(self) -> int:
        """Programs that the registers let a multiprocessor run at once."""
        of_warp = 32 * (-(-self.registers // 8) * 8)
        return min(REGISTERS // (of_warp * self.warps), WARPS // self.warps, BLOCKS)

    @property
    def waves(self) -> float:
        """How often the device is filled."""
        return self.programs / (self.resident * MULTIPROCESSORS)

    @property
    def memory_us(self) -> float:
        """At the speed of a copy."""
        return 1e6 * self.bytes / COPY

    @property
    def issue_us(self) -> float:
        """If nothing but the number of instructions mattered."""
        return 1e6 * (self.instructions + self.around) * self.elements / 32 / ISSUED

    @property
    def us(self) -> float:
        """The prediction."""
        if self.round_trips:
            return self.round_trips * ROUND_TRIP + SYNCHRONISED + self.memory_us
        # In the last wave some multiprocessors have nothing to issue; memory the others use.
        whole = math.ceil(self.waves) / self.waves if self.waves > 1 else 1.0
        issue = whole * self.issue_us / OF_ISSUE
        memory = self.memory_us / OF_COPY
        return float((issue**SHARPNESS + memory**SHARPNESS) ** (1 / SHARPNESS))

    @property
    def bound(self) -> str:
        """What decides."""
        if self.round_trips:
            return "latency"
        issue, memory = self.issue_us / OF_ISSUE, self.memory_us / OF_COPY
        if 0.8 < issue / memory < 1.25:
            return "both"
        return "instructions" if issue > memory else "memory"


@dataclass(frozen=True)
class Native:
    """What was counted of a kernel in CUDA C++.

    Attributes:
        what: It does, and of which volume.
        registers: Of a thread.
        spills: Bytes that a thread spills.
        threads: Of a block.
        bytes: That it must move to and from memory.
    """

    what: str
    registers: int
    spills: int
    threads: int
    bytes: int

    @property
    def resident(self) -> int:
        """Blocks that the registers let a multiprocessor run at once; shared memory may be less."""
        of_block = self.threads * (-(-self.registers // 8) * 8)
        return min(REGISTERS // of_block, 32 * WARPS // self.threads, BLOCKS)

    @property
    def least_us(self) -> float:
        """The microseconds that memory takes."""
        return 1e6 * self.bytes / COPY / OF_COPY
