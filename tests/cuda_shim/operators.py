"""Compiles CUDA operators for the CPU into a library that torch loads."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils import cpp_extension

import setup
from tests.cuda_shim.build import build

CSRC = Path(__file__).parents[2] / "csrc"
NAME = "operators.so"
# What takes the place of sources that the CPU has nothing for, such as CUB's part of a sort.
STAND_INS = {"sort_cub.cu": Path(__file__).parents[1] / "ops/lovasz_sort_shim.cpp"}


def library_of(primitive: str) -> str:
    """Return the name in ``torch.ops`` of a primitive's CUDA operators for the CPU."""
    return f"segloss_shim_{primitive}"


def sources_of(primitive: str) -> list[Path]:
    """Return the sources of a primitive's CUDA operators for the CPU."""
    return [
        STAND_INS.get(source.name, source)
        for source in sorted((CSRC / primitive / "cuda").glob("*.cu"))
    ]


def build_primitive(primitive: str, folder: Path, *, sanitize: bool = False) -> Path:
    """Compile the CUDA kernels and operators of a primitive for the CPU, as NAME in a folder.

    With sanitizers only some of the kernels that differ in types and terms: they take long.
    """
    sources = sources_of(primitive)
    # Torch hides its types, and so what holds them: of that the compiler warns.
    library, options = library_of(primitive), ["-Werror", "-Wno-attributes"]
    options += ["-DSEGLOSS_FEW_VARIANTS"] if sanitize else []
    return build_operators(sources, folder / NAME, library, sanitize=sanitize, options=options)


def load(path: Path) -> ctypes.CDLL:
    """Register operators; return their library, whose order of threads can be set."""
    torch.ops.load_library(str(path))
    return ctypes.CDLL(str(path))


def build_operators(
    sources: Sequence[Path],
    output: Path,
    library: str,
    *,
    sanitize: bool = False,
    options: Sequence[str] = (),
) -> Path:
    """Compile kernels and their operators, which register for CPU tensors, against LibTorch.

    Args:
        sources: ``.cu`` and ``.cpp`` files.
        output: The file to write.
        library: The name that the operators have in ``torch.ops``.
        sanitize: As for :func:`tests.cuda_shim.build.build`.
        options: More of the compiler's, such as macros.

    Returns:
        The output.
    """
    common = [
        f"-I{CSRC}",
        *(f"-isystem{path}" for path in cpp_extension.include_paths()),
        *setup.define_flags(SEGLOSS_CUDA_LIBRARY=library, SEGLOSS_CUDA_KEY="CPU"),
        *(f"-L{path}" for path in cpp_extension.library_paths()),
        "-Wl,--no-as-needed",  # the libraries come before what needs them
        "-ltorch_cpu",
    ]
    return build(sources, output, shared=True, sanitize=sanitize, options=[*common, *options])
