"""Compiles the Triton kernels of region_sums for GPUs that need not be there, and looks at the code.

It compiles what triton_launch would launch: the same constants, signature and number of warps. It
must run without TRITON_INTERPRET.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from segloss_fast.ops.region_sums import triton_launch
from segloss_fast.ops.region_sums.options import Options

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
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


@dataclass(frozen=True)
class Compiled:
    """What one kernel became.

    Attributes:
        registers: Per thread.
        stack: Bytes per thread; above 0 where registers spill.
        shared: Bytes per program.
        sass: The machine code.
        ttgir: The tiles with their layouts.
        seconds: To compile.
    """

    registers: int
    stack: int
    shared: int
    sass: str
    ttgir: str

    def instructions(self, pattern: str) -> Counter[str]:
        """Count the instructions whose name the pattern matches."""
        return Counter(re.findall(rf"\b({pattern})(?=[\s;])", self.sass))


def compile_launch(launch: triton_launch.Launch, capability: int) -> Compiled:
    """Compile a launch's kernel for a GPU of this compute capability."""
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
            attributes[(place,)] = [["tt.divisibility", 16]]  # of its address
        else:
            signature[name] = parameter.annotation_type
    source = ASTSource(
        fn=launch.kernel, signature=signature, constexprs=launch.constants, attrs=attributes
    )
    kernel = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options=launch.options
    )
    usage, sass = _disassemble(kernel.asm["cubin"])
    return Compiled(usage["REG"], usage["STACK"], usage["SHARED"], sass, kernel.asm["ttgir"])


def _disassemble(cubin: bytes) -> tuple[dict[str, int], str]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = (
            subprocess.run(
                [str(TOOLS / tool), option, file.name], capture_output=True, text=True, check=True
            ).stdout
            for tool, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    return {name: int(n) for name, n in re.findall(r"(REG|STACK|SHARED):(\d+)", usage)}, sass


def launches(
    terms: tuple[str, ...],
    classes: int,
    dtype: torch.dtype,
    target: torch.dtype | None,
    *,
    activation: str = "softmax",
    ce_activation: str | None = None,
    gamma: float = 2.0,
    side: int = 128,
    ignore_index: int | None = None,
    channels_last: bool = False,
) -> dict[str, triton_launch.Launch]:
    """Return the launches of a volume; a target of None is dense, of the input's dtype."""
    with torch.device("meta"):
        x = torch.empty((2, classes, side, side, side), dtype=dtype)
        labels = torch.empty_like(x)
        if target is not None:
            labels = torch.empty((2, side, side, side), dtype=target)
        rows = torch.empty((len(terms), 2, classes), dtype=torch.float64)
        invalid = torch.empty(2, dtype=torch.float64)
    if channels_last:
        x = x.to(memory_format=torch.channels_last_3d)
    options = Options(terms, activation, ce_activation or activation, gamma, ignore_index)
    first, total = triton_launch.forward_launches(x, labels, None, options, rows, invalid)
    back = triton_launch.backward_launch(torch.empty_like(x), rows, x, labels, None, options)
    return {"forward": first, "total": total, "backward": back}
