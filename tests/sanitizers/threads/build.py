"""Compiles the native code of primitives for the sanitizer of threads, with their drivers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.conftest import COMPILER, ROOT

HERE = Path(__file__).parent
CSRC = ROOT / "csrc"
FLAGS = ("-O1", "-g1", "-std=c++20", "-fsanitize=thread", "-fopenmp-simd", "-Wall")
# Of torch's own tensors, which are not modelled here, and of the formulas, which have no threads.
LEFT_OUT = ("region_sums/step.cpp", "confusion_sums/direct.cpp", "formula")


def primitives() -> list[str]:
    """Return those with native code that threads share."""
    folders = sorted(path.parent.name for path in CSRC.glob("*/binding.cpp"))
    return [name for name in folders if name not in LEFT_OUT]


def build(folder: Path, names: Iterable[str], *, every_set: bool) -> Path:
    """Compile the drivers and the native code of these primitives; return the program.

    Args:
        folder: Where object files and the program go.
        names: The primitives.
        every_set: Whether for every instruction set of the machine, not the baseline alone.
    """
    sources = [HERE / "drivers.cpp", CSRC / "cpu_capability.cpp"]
    for name in (*names, "voxels"):
        sources += sorted((CSRC / name).glob("*.cpp"))
    left_out = [CSRC / name for name in LEFT_OUT]
    sources = [source for source in sources if source not in left_out]
    flags = [*FLAGS, f"-I{HERE}", f"-I{CSRC}", *([] if every_set else ["-DSEGLOSS_ONE_SET"])]
    objects = [folder / f"{place}.o" for place, _ in enumerate(sources)]
    commands = [
        [COMPILER, *flags, "-c", str(source), "-o", str(target)]
        for source, target in zip(sources, objects, strict=True)
    ]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", "2"))) as pool:
        list(pool.map(_run, commands))
    program = folder / "drivers"
    _run([COMPILER, "-fsanitize=thread", *map(str, objects), "-o", str(program), "-lpthread"])
    return program


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
