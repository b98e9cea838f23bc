"""Compiles Triton kernels for GPUs that need not be there, and looks at them.

It compiles what a launch would launch: the same constants, signature and number of warps. Not under
TRITON_INTERPRET.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from segloss_fast.ops._triton.launch import Launch
from tests.ops.triton.disassembly import TOOLS, announce, text_of

POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.uint8: "*u8",
    torch.int8: "*i8",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}  # 4 bytes without a suffix


@dataclass(frozen=True)
class Compiled:
    """What one kernel became.

    Attributes:
        registers: Per thread.
        stack: Bytes per thread; above 0 where registers spill.
        shared: Bytes of shared memory of a program.
        cubin: The machine code.
        ttgir: The code before, with the places of tiles in registers, lanes and warps.
    """

    registers: int
    stack: int
    shared: int
    cubin: bytes
    ttgir: str

    @property
    def sass(self) -> str:
        """The machine code in words. Whoever looks at many kernels first compiles them all."""
        return text_of(self.cubin)

    def report(self) -> dict[str, Any]:
        """Return what the tests look at; the loop is the innermost one over the input.

        "around" are the instructions of the loops around it, from the inside, each without the
        loops that it holds: what is done once for as many rounds as a kernel adds up in registers.
        """
        loop, around = _main_loop(self.sass)
        loads, stores = _accesses(loop, "LDG"), _accesses(loop, "STG")
        return {
            "registers": self.registers,
            "stack": self.stack,
            "shared": self.shared,
            "loads": loads,
            "stores": stores,
            "loop_bytes_read": sum(width * n for width, n in loads.items()),
            "loop_bytes_written": sum(width * n for width, n in stores.items()),
            "loop_instructions": loop.count(";"),
            "around": around,
            "loop_exponentials": loop.count("MUFU.EX2"),
            "loop_shuffles": loop.count("SHFL"),
            "loop_barriers": loop.count("BAR.SYNC"),
            "loop_spills": loop.count("STL") + loop.count("LDL"),
        }


def _main_loop(sass: str) -> tuple[str, list[int]]:
    """Return the shortest loop that loads and takes exponentials, or loads if none takes them.

    And how many instructions the loops around it have. A loop is a stretch between a label and a
    branch back to it.
    """
    lines = sass.splitlines()
    labels = {line[:-1]: i for i, line in enumerate(lines) if re.fullmatch(r"\.L_x_\d+:", line)}
    loops = []
    for end, line in enumerate(lines):
        target = re.search(r"BRA\b.*`\((\.L_x_\d+)\)", line)
        if target and labels[target[1]] < end:
            loops.append((labels[target[1]], end))
    texts = {loop: "\n".join(lines[loop[0] : loop[1] + 1]) for loop in loops}
    ranked = sorted(
        (loop for loop in loops if "LDG" in texts[loop]),
        key=lambda loop: ("MUFU.EX2" not in texts[loop], loop[1] - loop[0]),
    )
    if not ranked:
        return "", []
    first, last = ranked[0]
    holding = [loop for loop in texts if loop[0] <= first and last <= loop[1]]
    counts = sorted(texts[loop].count(";") for loop in holding)
    return texts[ranked[0]], [more - less for less, more in itertools.pairwise(counts)]


def _accesses(sass: str, name: str) -> dict[int, int]:
    """Count loads or stores by the bytes that each moves."""
    kinds = re.findall(rf"\b{name}\.E((?:\.\w+)*)\s", sass)
    found = Counter(
        next((WIDTHS[part] for part in kind.split(".") if part in WIDTHS), 4) for kind in kinds
    )
    return dict(found)


def compile_launch(launch: Launch, capability: int, aligned: bool = True) -> Compiled:
    """Compile a launch's kernel for a GPU of this compute capability.

    Args:
        launch: Of meta tensors, or others.
        capability: As 90.
        aligned: Whether the tensors' memory begins at multiples of 16 bytes.
    """
    signature: dict[str, str] = {}
    attributes: dict[tuple[int], Any] = {}
    for place, parameter in enumerate(launch.kernel.params):
        name = parameter.name
        if name in launch.constants:
            signature[name] = "constexpr"
            continue
        value = launch.arguments[name]
        if isinstance(value, Tensor):
            signature[name] = POINTERS[value.dtype]
            if aligned:
                attributes[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = parameter.annotation_type
    source = ASTSource(
        fn=launch.kernel, signature=signature, constexprs=launch.constants, attrs=attributes
    )
    kernel = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options=launch.options
    )
    cubin = kernel.asm["cubin"]
    announce(cubin, capability)
    usage = _usage(cubin)
    shared = kernel.metadata.shared
    return Compiled(usage["REG"], usage["STACK"], shared, cubin, kernel.asm["ttgir"])


def _usage(cubin: bytes) -> dict[str, int]:
    """Return what a thread needs: REG, and STACK in bytes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(TOOLS / "cuobjdump"), "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(n) for name, n in re.findall(r"(REG|STACK):(\d+)", said)}


def specialization(launch: Launch) -> Any:  # noqa: ANN401
    """Return what decides whether a launch needs a kernel of its own."""
    kernel = launch.kernel
    backend = make_backend(GPUTarget("cuda", 90, 32))
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    arguments = {
        name: torch.empty(16, dtype=value.dtype) if isinstance(value, Tensor) else value
        for name, value in launch.arguments.items()
    }
    return binder(**arguments, **launch.constants, **launch.options)[1:]
