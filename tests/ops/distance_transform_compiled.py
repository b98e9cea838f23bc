"""Compiles the Triton kernels of distance_transform for GPUs that need not be there.

Not collected by name: test_distance_transform_triton.py runs it in a process of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from segloss_fast.ops._triton.launch import Launch
from segloss_fast.ops.distance_transform import triton_launch
from tests.ops.distance_transform_cases import SIDES

assert os.environ.get("TRITON_INTERPRET") != "1", "run tests/ops/test_distance_transform_triton.py"

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
POINTERS = {torch.uint8: "*u8", torch.int64: "*i64", torch.float16: "*fp16", torch.float32: "*fp32"}


def resources(launch: Launch, capability: int) -> dict[str, int]:
    """Compile a launch's kernel; return its registers, and bytes of stack, by their names."""
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
    target = GPUTarget("cuda", capability, 32)
    binary = triton.compile(source, target=target, options=launch.options).asm["cubin"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [str(CUOBJDUMP), "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", POINTERS, ids=str)
@pytest.mark.parametrize("side", SIDES)
def test_nothing_spills(side: str, dtype: torch.dtype, capability: int) -> None:
    with torch.device("meta"):
        mask = torch.empty((1, 2, 64, 64, 64), dtype=dtype)
        out = torch.empty(mask.shape)
        launches = list(triton_launch.launches(mask, [1.0, 1.0, 2.0], side, False, out))
    assert len(launches) == 3
    for launch in launches:
        found = resources(launch, capability)
        assert found["STACK"] == 0, found
        assert found["LOCAL"] == 0, found
        assert found["REG"] <= 64, found
