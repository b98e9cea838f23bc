"""Compiles the Triton kernels of region_sums for GPUs that need not be there, and looks at them.

It compiles what triton_launch would launch: the same constants, signature and number of warps. As a
program (without TRITON_INTERPRET) it writes what it saw of a sample of kernels as JSON.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from segloss_fast.ops._triton.launch import Launch
from segloss_fast.ops.region_sums import triton_launch
from segloss_fast.ops.region_sums.options import TERMS, Options

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


WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}  # 4 bytes without a suffix
LOSSES: dict[str, dict[str, Any]] = {
    "Dice": {"terms": ("tp", "pred", "target")},
    "DiceCE": {"terms": ("tp", "pred", "target", "nll")},
    "DiceFocal": {"terms": ("tp", "pred", "target", "focal")},
    "CE": {"terms": ("nll", "target")},
    "SigmoidDiceFocal": {
        "terms": ("tp", "pred", "target", "focal", "focal_neg"),
        "activation": "sigmoid",
    },
    "MixedDiceFocal": {
        "terms": ("tp", "pred", "target", "focal", "focal_neg"),
        "ce_activation": "sigmoid",
    },
    "All": {"terms": TERMS, "gamma": 1.5},
}
CLASSES = (1, 2, 3, 4, 8, 14, 32, 64, 105, 200)
DTYPES = ("float32", "float16", "bfloat16")
TARGETS = ("uint8", "int64", "dense")


@dataclass(frozen=True)
class Compiled:
    """What one kernel became.

    Attributes:
        registers: Per thread.
        stack: Bytes per thread; above 0 where registers spill.
        sass: The machine code.
        ttgir: The code before, with the places of tiles in registers, lanes and warps.
    """

    registers: int
    stack: int
    sass: str
    ttgir: str

    def report(self) -> dict[str, Any]:
        """Return what the tests look at; the loop is the innermost one that loads."""
        loop = _loop(self.sass)
        loads, stores = _accesses(loop, "LDG"), _accesses(loop, "STG")
        return {
            "registers": self.registers,
            "stack": self.stack,
            "loads": loads,
            "stores": stores,
            "loop_bytes_read": sum(width * n for width, n in loads.items()),
            "loop_bytes_written": sum(width * n for width, n in stores.items()),
            "loop_instructions": loop.count(";"),
            "loop_exponentials": loop.count("MUFU.EX2"),
            "loop_shuffles": loop.count("SHFL"),
            "loop_barriers": loop.count("BAR.SYNC"),
            "loop_spills": loop.count("STL") + loop.count("LDL"),
        }


def _loop(sass: str) -> str:
    """Return the shortest stretch between a label and a branch back to it that loads."""
    lines = sass.splitlines()
    labels = {line[:-1]: i for i, line in enumerate(lines) if re.fullmatch(r"\.L_x_\d+:", line)}
    loops = []
    for end, line in enumerate(lines):
        target = re.search(r"BRA\b.*`\((\.L_x_\d+)\)", line)
        if target and labels[target[1]] < end:
            text = "\n".join(lines[labels[target[1]] : end + 1])
            if "LDG" in text:
                loops.append(text)
    return min(loops, key=len, default="")


def _accesses(sass: str, name: str) -> dict[int, int]:
    """Count loads or stores by the bytes that each moves."""
    kinds = re.findall(rf"\b{name}\.E((?:\.\w+)*)\s", sass)
    found = Counter(
        next((WIDTHS[part] for part in kind.split(".") if part in WIDTHS), 4) for kind in kinds
    )
    return dict(found)


def compile_launch(launch: Launch, capability: int) -> Compiled:
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
    return Compiled(usage["REG"], usage["STACK"], sass, kernel.asm["ttgir"])


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
    return {name: int(n) for name, n in re.findall(r"(REG|STACK):(\d+)", usage)}, sass


def launches(loss: str, classes: int, dtype: str, target: str) -> dict[str, Launch]:
    """Return the launches of two volumes of 128^3 voxels."""
    space = (128, 128, 128)
    kind = getattr(torch, dtype)
    x = torch.empty((2, classes, *space), dtype=kind, device="meta")
    labels = torch.empty_like(x)
    if target != "dense":
        labels = torch.empty((2, *space), dtype=getattr(torch, target), device="meta")
    options = Options(**{**LOSSES[loss], **_defaults(loss, classes)})
    rows = x.new_empty((len(options.terms), 2, classes), dtype=torch.float64)
    invalid = x.new_empty(2, dtype=torch.float64)
    first, total = triton_launch.forward_launches(x, labels, None, options, rows, invalid)
    back = triton_launch.backward_launch(torch.empty_like(x), rows, x, labels, None, options)
    return {"forward": first, "total": total, "backward": back}


def _defaults(loss: str, classes: int) -> dict[str, Any]:
    given = LOSSES[loss]
    activation = "sigmoid" if classes == 1 else given.get("activation", "softmax")
    ce_activation = "sigmoid" if classes == 1 else given.get("ce_activation", activation)
    return {
        "activation": activation,
        "ce_activation": ce_activation,
        "gamma": given.get("gamma", 2.0),
        "ignore_index": None,
    }


def sample() -> Iterator[tuple[str, int, str, str, int, str]]:
    """Yield loss, classes, dtype, target, compute capability and direction.

    Every loss with every number of classes, dtypes and targets in turn; DiceCE with most of them.
    """
    turn = itertools.cycle(itertools.product(DTYPES, TARGETS))
    for (loss, classes), (dtype, target), capability in zip(
        itertools.product(LOSSES, CLASSES), turn, itertools.cycle((80, 90)), strict=False
    ):
        for direction in ("forward", "backward"):
            yield loss, classes, dtype, target, capability, direction
    for classes, dtype, target in itertools.product((4, 14), DTYPES[:2], TARGETS):
        for direction in ("forward", "backward"):
            yield "DiceCE", classes, dtype, target, 90, direction
    yield "DiceCE", 14, "float32", "int64", 80, "total"
    yield "DiceCE", 14, "float32", "dense", 90, "total"


def examine(case: tuple[str, int, str, str, int, str]) -> tuple[str, dict[str, Any]]:
    """Compile one kernel and return its name and report."""
    loss, classes, dtype, target, capability, direction = case
    launch = launches(loss, classes, dtype, target)[direction]
    return " ".join(map(str, case)), compile_launch(launch, capability).report()


def specializations(
    batch: int, space: tuple[int, ...], terms: tuple[str, ...], gamma: float, ignore_index: int
) -> list[Any]:
    """Return what decides whether the launches of a call need kernels of their own."""
    x = torch.empty(batch, 4, *space)
    target = torch.zeros((batch, *space), dtype=torch.int64)
    options = Options(terms, "softmax", "softmax", gamma, ignore_index)
    rows = torch.empty((len(terms), batch, 4), dtype=torch.float64)
    invalid = torch.empty(2, dtype=torch.float64)
    backend = make_backend(GPUTarget("cuda", 90, 32))
    found = []
    for launch in (
        *triton_launch.forward_launches(x, target, None, options, rows, invalid),
        triton_launch.backward_launch(torch.empty_like(x), rows, x, target, None, options),
    ):
        kernel = launch.kernel
        binder = create_function_from_signature(kernel.signature, kernel.params, backend)
        found.append(binder(**launch.arguments, **launch.constants, **launch.options)[1:])
    return found


def main() -> None:
    """Write the report of the sample, or of the losses named, to the path given first."""
    one = specializations(2, (16, 16, 16), ("tp", "pred", "focal"), 1.5, 255)
    assert one == specializations(1, (32, 48, 8), ("focal", "tp", "pred"), 3.0, 1)
    assert one == specializations(3, (8, 8, 1), ("pred", "focal", "tp"), 0.5, -1)
    cases = [case for case in sample() if not sys.argv[2:] or case[0] in sys.argv[2:]]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = dict(pool.map(examine, dict.fromkeys(cases)))
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
