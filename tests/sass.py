"""Reads the machine code of GPU kernels: loops, and how often a thread waits for memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LABEL = re.compile(r"^(\.L_x_\d+):")
_LINE = re.compile(r"/\*([0-9a-f]+)\*/\s+(?:@!?U?P\d+\s+)?([A-Z][\w.]*)\s*([^;]*);")
_REGISTER = re.compile(r"\bR(\d+)")
_WIDTHS = {"64": 2, "128": 4}  # registers of a load


@dataclass(frozen=True)
class Instruction:
    """One instruction, as nvdisasm or cuobjdump write it."""

    address: int
    opcode: str
    operands: str

    @property
    def name(self) -> str:
        """The opcode without what follows its first point."""
        return self.opcode.partition(".")[0]

    @property
    def registers(self) -> set[int]:
        """The registers that it names, each the first of what may be several."""
        return {int(number) for number in _REGISTER.findall(self.operands)}

    @property
    def loaded(self) -> set[int]:
        """The registers that a load fills."""
        width = next((n for part in self.opcode.split(".") if (n := _WIDTHS.get(part))), 1)
        first = _REGISTER.match(self.operands)
        return set() if first is None else set(range(int(first[1]), int(first[1]) + width))


def instructions(text: str) -> list[Instruction]:
    """Return the instructions of one kernel, whose branches name addresses."""
    found, labels, waiting = [], dict[str, int](), list[str]()
    for line in text.splitlines():
        label, code = _LABEL.match(line), _LINE.search(line)
        if label:
            waiting.append(label[1])
        if code:
            address = int(code[1], 16)
            labels |= dict.fromkeys(waiting, address)
            waiting.clear()
            found.append(Instruction(address, code[2], code[3]))
    return [
        Instruction(
            one.address, one.opcode, re.sub(r"`\((\.L_x_\d+)\)", lambda m: hex(labels[m[1]]), rest)
        )
        if "`(" in (rest := one.operands) and one.name == "BRA"
        else one
        for one in found
    ]


def loops(code: list[Instruction]) -> Iterator[tuple[int, int]]:
    """Yield first and last address of each loop: from where a branch back leads to that branch."""
    for one in code:
        target = re.search(r"0x([0-9a-f]+)", one.operands) if one.name == "BRA" else None
        if target and int(target[1], 16) < one.address:
            yield int(target[1], 16), one.address


def round_trips(text: str) -> int:
    """Count how often a thread waits for memory before it first meets other threads at a barrier.

    Loads that are all asked for before one of them is used count as one. What is in loops is left
    out: of a kernel whose loops are not entered this is all.
    """
    code = instructions(text)
    inside = list(loops(code))
    trips, pending, waited = 0, set[int](), True
    for one in code:
        if any(first <= one.address <= last for first, last in inside):
            continue
        if one.name == "BAR":
            break
        if pending & one.registers:
            waited = True
            pending.clear()
        if one.name == "LDG":
            trips += waited
            waited = False
            pending |= one.loaded
    return trips
