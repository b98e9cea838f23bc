"""Kernels that are disassembled together have the text that nvdisasm gives of each alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.ops.triton.aot import launches
from tests.ops.triton.compiler import compile_launch
from tests.ops.triton.disassembly import TOOLS
from tests.sass import Instruction, instructions, loops

pytestmark = pytest.mark.compiled


@pytest.mark.parametrize("capability", [80, 90])
def test_together_as_alone(tmp_path: Path, capability: int) -> None:
    wanted = launches("DiceCE", 4, "float32", "uint8")
    found = [compile_launch(wanted[name], capability) for name in ("forward", "backward", "total")]
    for kernel in found:
        (tmp_path / "kernel.cubin").write_bytes(kernel.cubin)
        command = [str(TOOLS / "nvdisasm"), "-c", str(tmp_path / "kernel.cubin")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        alone, together = instructions(said), instructions(kernel.sass)
        assert [_kept(one) for one in together] == [_kept(one) for one in alone]
        assert list(loops(together)) == list(loops(alone)) != []


def _kept(one: Instruction) -> tuple[int, str, str]:
    """Return an instruction without names of what others than branches lead to."""
    return one.address, one.opcode, one.operands if one.name in ("BRA", "LDG", "STG") else ""
