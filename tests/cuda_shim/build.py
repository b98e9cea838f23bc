"""Compiles CUDA kernels for the CPU, against the headers beside this file."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.suite.tiers import chosen

HERE = Path(__file__).parent
COMPILER = os.environ.get("CXX", "c++")
# No contraction: a GPU's fused multiply-adds are not the ones that this compiler would choose.
FLAGS = ("-x", "c++", "-std=c++20", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas")
PLAIN = ("-O2",)
# Of kernels, here and natively. -O1: they rely on inlining, but more optimisation hides errors and
# compiles longer, as does more than the line numbers of -g1. Conversion of floats to integers is no
# part of "undefined". Half of the time went into checks of what the address sanitizer reports
# besides: pointers that are null or pass the end of memory, accesses outside of an object. Python's
# own flags may hold -fwrapv or -fno-strict-overflow, under which no signed overflow is a finding.
SANITIZED = (
    "-O1",
    "-g1",
    "-fno-omit-frame-pointer",
    "-fno-wrapv",
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-sanitize=null,object-size,pointer-overflow,vptr",
    "-fno-sanitize-recover=all",
)
# Whether a variable is used when its block has ended takes a third of what is left: by hand.
FASTER = ("-fno-sanitize-address-use-after-scope",)


def sanitizers() -> tuple[str, ...]:
    """Return the flags of the sanitizers, all of them in the tier ``hand``."""
    return SANITIZED if chosen() == "hand" else (*SANITIZED, *FASTER)


def sanitized_name(name: str) -> str:
    """Return the name that a build with these flags is kept by."""
    return f"{name}-whole" if chosen() == "hand" else name


def available() -> bool:
    """Whether there is a compiler."""
    return shutil.which(COMPILER) is not None


def build(
    sources: Sequence[Path],
    output: Path,
    *,
    shared: bool = False,
    sanitize: bool = False,
    options: Sequence[str] = (),
) -> Path:
    """Compile kernels, and C++ sources that go with them, into one file that runs on the CPU.

    Args:
        sources: ``.cu`` and ``.cpp`` files.
        output: The executable to write, or the shared library.
        shared: Make a shared library, for ``ctypes``.
        sanitize: With the address and undefined-behaviour sanitizers. Python can load such a
            library only with the sanitizers' own libraries in ``LD_PRELOAD``.
        options: More of the compiler's, such as ``-I`` folders.

    Returns:
        The output.

    Raises:
        RuntimeError: If a source does not compile, with what the compiler said.
    """
    flags = [*FLAGS, *(sanitizers() if sanitize else PLAIN)]
    if shared:
        flags += ["-shared", "-fPIC"]
    inputs = [str(path) for path in (*sources, HERE / "fibers.cpp")]
    command = [COMPILER, *flags, f"-I{HERE}", *options, *inputs, "-o", str(output), "-lpthread"]
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}")
    return output
