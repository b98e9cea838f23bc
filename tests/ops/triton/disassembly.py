"""Disassembles kernels, many at once: nvdisasm works far longer on its own start than on a kernel.

It takes one file. So the machine code of all kernels that wait goes into one, without the frame of
an object file; what that had said, where branches lead, is written back as nvdisasm writes it.
"""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from collections import defaultdict
from itertools import count
from pathlib import Path

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_LINE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/(\s+\S.*;.*)")
_TARGET = re.compile(r"(\b(?:BRA|BSSY|CALL|BRX)\b.*?)\b0x([0-9a-f]+)(?= *;)")
_waiting: dict[bytes, int] = {}
_done: dict[bytes, str] = {}


def announce(cubin: bytes, capability: int) -> None:
    """Say that the text of a cubin, of one kernel for this compute capability, may be asked for."""
    if cubin not in _done:
        _waiting[cubin] = capability


def text_of(cubin: bytes) -> str:
    """Return the instructions of an announced cubin, with those of all others that wait."""
    if cubin in _waiting:
        by_capability: dict[int, list[bytes]] = defaultdict(list)
        for one, capability in _waiting.items():
            by_capability[capability].append(one)
        for capability, cubins in by_capability.items():
            _done.update(zip(cubins, disassemble(cubins, capability), strict=True))
        _waiting.clear()
    return _done[cubin]


def disassemble(cubins: list[bytes], capability: int) -> list[str]:
    """Return the instructions of each, with labels where branches lead."""
    codes = [_code(cubin) for cubin in cubins]
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(b"".join(codes))
        file.flush()
        command = [str(TOOLS / "nvdisasm"), "-b", f"SM{capability}", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [found for line in said.splitlines() if (found := _LINE.fullmatch(line))]
    texts, first = [], 0
    for code in codes:
        end = first + len(code)
        own = [(int(line[1], 16) - first, line[2]) for line in lines if int(line[1], 16) < end]
        texts.append(_with_labels(own, first))
        lines = lines[len(own) :]
        first = end
    assert not lines
    return texts


def _code(cubin: bytes) -> bytes:
    """Return the only section with machine code of an ELF file."""
    (start,) = struct.unpack_from("<Q", cubin, 40)
    number, place_of_names = struct.unpack_from("<HH", cubin, 60)
    sections = [struct.unpack_from("<IIQQQQ", cubin, start + 64 * i) for i in range(number)]
    names = sections[place_of_names][4]
    (code,) = (
        cubin[section[4] : section[4] + section[5]]
        for section in sections
        if cubin[names + section[0] :].startswith(b".text.")
    )
    return code


def _with_labels(lines: list[tuple[int, str]], first: int) -> str:
    """Write addresses from the kernel's beginning, and labels for those that branches name."""
    numbers, labels = count(), dict[int, str]()

    def label(found: re.Match[str]) -> str:
        address = int(found[2], 16) - first
        if address not in labels:
            labels[address] = f".L_x_{next(numbers)}"
        return f"{found[1]}`({labels[address]})"

    written = [(address, _TARGET.sub(label, text)) for address, text in lines]
    found = []
    for address, text in written:
        if address in labels:
            found.append(f"{labels[address]}:")
        found.append(f"        /*{address:04x}*/{text}")
    return "\n".join(found)
