"""Counts what a loss's launches need, from Triton's kernels compiled for sm_90."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from benchmarks.model.code import Code
from benchmarks.model.device import Kernel
from segloss_fast.ops._triton.launch import Launch
from tests.gpu.check.times import LossCase, loss_cases
from tests.ops.triton import aot, aot_lovasz
from tests.ops.triton.compiler import compile_launch
from tests.sass import round_trips

CAPABILITY = 90
CLASSES, CODE_DTYPES, CAPABILITIES = (4, 14, 105), ("float32", "bfloat16"), (80, 90)  # of a Code
TILES = ("LOG_TILES", "BLOCK_TILES")  # rounds of loops, from the inside
SECOND_STAGE = ("total", "replicas")  # launches that add what programs have left


def launches(case: LossCase) -> dict[str, Launch]:
    """Return the launches of a case by what they are: of a forward pass, and ``"backward"``."""
    problem = case.problem
    dtype, labels = str(problem.dtype)[6:], str(problem.labels)[6:]
    if case.loss == "dice_ce":
        return aot.launches("DiceCE", problem.classes, dtype, labels, problem.size, problem.batch)
    return aot_lovasz.launches(
        "softmax", problem.classes, dtype, labels, space=problem.size, batch=problem.batch
    )


def count(case: LossCase, name: str, launch: Launch) -> Kernel:
    """Compile one launch of a case, and count."""
    compiled = compile_launch(launch, CAPABILITY)
    report = compiled.report()
    direction = "backward" if name == "backward" else "forward"
    programs = int(torch.Size(launch.grid).numel())
    common: dict[str, Any] = {
        "name": launch.kernel.fn.__name__,
        "direction": direction,
        "warps": launch.warps,
        "registers": compiled.registers,
        "spills": report["loop_spills"],
        "programs": programs,
    }
    if name in SECOND_STAGE:
        read = launch.arguments["partials" if name == "total" else "counters"]
        counted = {"bytes": read.numel() * read.element_size(), "instructions": 0.0, "elements": 0}
        return Kernel(**common, **counted, round_trips=max(1, round_trips(compiled.sass)))
    problem = case.problem
    voxels = problem.batch * torch.Size(problem.size).numel()
    of_input = voxels * problem.classes * problem.dtype.itemsize
    moved = of_input * (2 if name == "backward" else 1) + voxels * problem.labels.itemsize
    per_thread = aot.elements(launch, problem.classes)
    return Kernel(
        **common,
        bytes=moved,
        instructions=report["loop_instructions"] / per_thread,
        elements=voxels * problem.classes,
        around=around(launch, report) / per_thread,
    )


def around(launch: Launch, report: dict[str, Any]) -> float:
    """Return the instructions of the loops around the innermost one, for each of its rounds."""
    tiles = [launch.constants[name] for name in TILES if name in launch.constants]
    # Where there is no second loop, or where the compiler has put one into the other, the outer.
    rounds = tiles[len(tiles) - len(report["around"]) :] if tiles else []
    return float(sum(n / of for n, of in zip(report["around"], rounds, strict=False)))


def _counted(task: tuple[int, str]) -> Kernel:
    place, name = task
    case = list(loss_cases())[place]
    return count(case, name, launches(case)[name])


def count_all() -> Iterator[tuple[LossCase, list[Kernel]]]:
    """Yield each case of the device check with its kernels, in the order of their launches."""
    cases = list(loss_cases())
    tasks = [(place, name) for place, case in enumerate(cases) for name in launches(case)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = dict(zip(tasks, pool.map(_counted, tasks), strict=True))
    for place, case in enumerate(cases):
        yield case, [kernel for (of, _), kernel in found.items() if of == place]


def coded(case: tuple[int, str, int]) -> Code:
    """Compile and count one forward kernel of the sums, of classes, a dtype and a capability."""
    classes, dtype, capability = case
    launch = aot.launches("DiceCE", classes, dtype, "uint8", batch=1)["forward"]
    report = compile_launch(launch, capability).report()
    per_thread = aot.elements(launch, classes)
    return Code(
        *case,
        instructions=report["loop_instructions"] / per_thread,
        around=around(launch, report) / per_thread,
        exponentials=report["loop_exponentials"] / per_thread,
        registers=report["registers"],
        spills=report["loop_spills"],
        shared=report["shared"],
        warps=launch.warps,
    )


def code_all() -> list[Code]:
    """Compile and count them all."""
    cases = list(itertools.product(CLASSES, CODE_DTYPES, CAPABILITIES))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        return list(pool.map(coded, cases))
