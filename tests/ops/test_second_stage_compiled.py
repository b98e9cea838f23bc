"""The kernels that add what the programs of another one have left: they wait for memory once."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from segloss_fast.ops._triton.launch import Launch
from segloss_fast.ops.confusion_sums import triton_launch as confusion
from tests.nvcc import ARCHITECTURES, compile_source, machine_code
from tests.ops.region_sums_cuda import SOURCES
from tests.ops.triton import aot, aot_lovasz
from tests.ops.triton.compiler import compile_launch
from tests.sass import round_trips

pytestmark = pytest.mark.compiled
MULTIPROCESSORS = 132  # of an H100 or H200
SPACES = ((16, 16, 16), (96, 96, 96), (512, 512, 512), (400,))


def confusion_launches(classes: int, space: tuple[int, ...], batch: int) -> tuple[Launch, Launch]:
    """Return the launches of a forward pass."""
    with torch.device("meta"):
        x = torch.empty((batch, classes, *space))
        labels = torch.empty((batch, *space), dtype=torch.uint8)
        sums = torch.empty((batch, classes, classes + 1), dtype=torch.float64)
        invalid = torch.empty(2, dtype=torch.float64)
    first, second = confusion.forward_launches(sums, invalid, x, labels, None, 0, None)
    return first, second


def region_launches(classes: int, space: tuple[int, ...], batch: int) -> tuple[Launch, Launch]:
    """Return the launches of a forward pass of Dice and cross-entropy."""
    found = aot.launches("DiceCE", classes, "float32", "uint8", space, batch)
    return found["forward"], found["total"]


def test_waits_are_counted() -> None:
    """Two loads that are used together are one; a third after the first is used is another."""
    together = """
        /*0000*/ LDG.E.64 R2, desc[UR4][R8.64] ;
        /*0010*/ @!P0 LDG.E.128 R4, desc[UR4][R10.64] ;
        /*0020*/ DADD R2, R2, R6 ;
    """
    after = """
        /*0030*/ LDG.E R6, desc[UR4][R8.64] ;
        /*0040*/ FADD R0, R0, R6 ;
        /*0050*/ BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0060*/ LDG.E R6, desc[UR4][R8.64] ;
    """
    loop = "/*0048*/ @P1 BRA 0x30 ;\n"
    assert round_trips(together) == 1
    assert round_trips(together + after) == 2
    lines = after.splitlines()
    assert round_trips(together + "\n".join([*lines[:3], loop, *lines[3:]])) == 1


@pytest.mark.parametrize("launches", [region_launches, confusion_launches])
def test_no_loop_is_entered(launches: Any) -> None:  # noqa: ANN401
    for classes, space, batch in product((2, 4, 14, 32, 105, 128), SPACES, (1, 3)):
        first, total = launches(classes, space, batch)
        programs = first.arguments["chunks"]
        assert programs <= total.constants["ROWS"], (classes, space, batch)
        assert programs * batch <= total.constants["ROWS"] + batch  # of the flags
        columns = total.constants["K"] * total.constants["C"]
        assert total.grid == (batch, -(-columns // total.constants["COLUMNS"]))


@pytest.mark.parametrize("classes", [4, 14, 105])
def test_triton_waits_once(classes: int) -> None:
    """Where 64 + 8 waits followed each other: 32 steps with two each, and the flags."""
    space = (128, 128, 128)
    second = [region_launches(classes, space, 2)[1], confusion_launches(classes, space, 2)[1]]
    second += [aot_lovasz.launches("softmax", classes, "float32", "uint8")["total"]]
    for launch in second:
        found = compile_launch(launch, 90)
        assert round_trips(found.sass) == 1
        assert found.stack == 0
        assert found.registers <= 128  # of 512 threads


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cuda_waits_once(architecture: str) -> None:
    """All that eight blocks on every multiprocessor leave of an item (kSumsAtOnce, op.cu)."""
    source = next(source for source in SOURCES if source.stem == "op")
    compiled, _ = compile_source(source, architecture)
    (code,) = (text for name, text in machine_code(compiled).items() if "reduce_kernel" in name)
    assert round_trips(code) == 1
    text = (source.parent / "reduce.cuh").read_text()
    numbers = {
        name: int(text.split(f"constexpr int {name} = ")[1].split(";")[0])
        for name in ("kReduceLanes", "kReducePhases", "kSumsAtOnce", "kFlagsAtOnce")
    }
    most = 8 * MULTIPROCESSORS
    assert numbers["kSumsAtOnce"] * numbers["kReducePhases"] >= most
    threads = numbers["kReduceLanes"] * numbers["kReducePhases"]
    assert numbers["kFlagsAtOnce"] * threads >= most
