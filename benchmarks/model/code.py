"""The code of the forward kernels of the sums, for two generations of GPUs, and what it was before.

BEFORE is what ``count.code_all`` found when one kernel served every target, kept to compare with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.model.device import BLOCKS, REGISTERS, WARPS
from benchmarks.tables.cells import table

HERE = Path(__file__).parent
NOW, BEFORE = HERE / "code.json", HERE / "code_before.json"
SHARED = {80: 164 * 1024, 90: 228 * 1024}  # bytes of a multiprocessor; a program takes 1024 besides


@dataclass(frozen=True)
class Code:
    """What was counted of a forward kernel of Dice and cross-entropy, with labels of one byte.

    Attributes:
        classes: Of the input.
        dtype: Of the input.
        capability: Of the GPU, as 90.
        instructions: Of a thread, per element of the input, in the innermost loop.
        around: The same of the loops around it.
        exponentials: Per element of the input.
        registers: Of a thread.
        spills: Instructions in the loop that spill.
        shared: Bytes of shared memory of a program.
        warps: Of a program.
    """

    classes: int
    dtype: str
    capability: int
    instructions: float
    around: float
    exponentials: float
    registers: int
    spills: int
    shared: int
    warps: int

    @property
    def resident(self) -> int:
        """Programs that a multiprocessor runs at once."""
        of_warp = 32 * (-(-self.registers // 8) * 8)
        # A multiprocessor has as many registers in both generations.
        by_memory = SHARED[self.capability] // (self.shared + 1024)
        by_registers = REGISTERS // (of_warp * self.warps)
        return min(by_registers, by_memory, WARPS // self.warps, BLOCKS)


def save(codes: Sequence[Code], path: Path = NOW) -> None:
    """Keep what was counted."""
    path.write_text(json.dumps([asdict(code) for code in codes], indent=1) + "\n")


def load(path: Path = NOW) -> list[Code]:
    """Read what was counted."""
    return [Code(**raw) for raw in json.loads(path.read_text())]


def section(now: Sequence[Code], before: Sequence[Code]) -> str:
    """Return the table of both."""
    head = ["C", "dtype", "sm", "instructions", "around", "exponentials", "registers", "spills"]
    head += ["shared, bytes", "programs x warps at once"]
    known = {(code.classes, code.dtype, code.capability): code for code in before}
    rows = []
    for code in now:
        old = known[code.classes, code.dtype, code.capability]
        pairs = zip(_cells(old), _cells(code), strict=True)
        cells = [one if one == other else f"{one} → {other}" for one, other in pairs]
        rows.append([str(code.classes), code.dtype, str(code.capability), *cells])
    return table(head, rows)


def _cells(code: Code) -> Iterator[str]:
    for value in (code.instructions, code.around, code.exponentials):
        yield f"{value:.1f}"
    yield from map(str, (code.registers, code.spills, code.shared))
    yield f"{code.resident} x {code.warps}"
