"""Loads the native libraries; loading one registers its operators with torch."""

from __future__ import annotations

import functools
import importlib
import json
import os
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TypedDict

import torch

from segloss_fast._install import why_pure
from segloss_fast._version import __version__


class CudaBuild(TypedDict):
    """How the CUDA library was built."""

    version: str
    compiler: str
    architectures: str
    max_classes: int


def _find(name: str) -> str | None:
    """Return the path of a library of this package, None where it was not built."""
    # Beside this file only: the finder of an editable install would offer that of another copy.
    spec = PathFinder.find_spec(f"segloss_fast.{name}", [str(Path(__file__).parent)])
    return None if spec is None else spec.origin


def _check_version(what: str, built: str) -> None:
    if built != __version__:
        raise ImportError(
            f"segloss_fast {__version__} found {what} built for {built}; rebuild it (make build)."
        )


def _load() -> ModuleType | None:
    if _find("_C") is None:
        return None  # a pure-Python install
    try:
        module = importlib.import_module("segloss_fast._C")
    except ImportError as error:
        raise ImportError(
            f"segloss_fast was built with a native module that does not load: {error}. "
            "Rebuild it against the installed torch (make build), or remove it."
        ) from error
    _check_version("a native module", module.build_info()["version"])
    return module


def _load_cuda() -> CudaBuild | str:
    """Return how the CUDA library was built, or why there is none."""
    if torch.version.cuda is None:
        return "torch was built without CUDA"
    path = _find("_C_cuda")
    if path is None:
        return (
            "the CUDA library was not built; install CUDA's compiler (nvcc) and reinstall with "
            "SEGLOSS_CUDA=1 to see why"
        )
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise ImportError(
            f"segloss_fast was built with a CUDA library that does not load: {error}. "
            "Rebuild it against the installed torch (make build), or remove it."
        ) from error
    build: CudaBuild = json.loads(torch.ops.segloss_fast._cuda_build_info())
    _check_version("a CUDA library", build["version"])
    return build


_C = _load()
# At import: calls of losses ask for it, also those that torch.compile traces.
_NO_NATIVE = None if _C is not None else f"there are no native kernels, because {why_pure()}"
_cuda = _load_cuda()
CUDA_BUILD = None if isinstance(_cuda, str) else _cuda
CUDA_MISSING = _cuda if isinstance(_cuda, str) else None
# The oldest that its kernels were compiled and interpreted with; the histogram of 3.4 is wrong.
_TRITON_NEEDED = (3, 6)
_CAPABILITY_NEEDED = (8, 0)  # for products of bfloat16


def _find_triton() -> str | None:
    """Return why Triton cannot be used, None where it can."""
    needed = ".".join(map(str, _TRITON_NEEDED))
    spec = find_spec("triton")
    if spec is None or spec.origin is None:  # none: a folder that only has the name
        return f"Triton is not installed (pip install 'triton>={needed}')"
    try:
        found = version("triton")
    except PackageNotFoundError:
        return None  # a nightly build, under another name
    if tuple(int(number) for number in found.split(".")[:2]) >= _TRITON_NEEDED:
        return None
    return f"Triton {needed} or later is needed, this is {found}"


TRITON_MISSING = _find_triton()


def why_no_native(primitive: str, device: torch.device, on_cuda: bool = True) -> str | None:
    """Return why no native kernels serve tensors of this device, None where they may.

    Args:
        primitive: Its name.
        device: That of the tensors.
        on_cuda: Whether the primitive has kernels in the CUDA library.
    """
    if device.type == "cpu":
        if _C is not None:
            return None
        return _NO_NATIVE
    if device.type == "cuda" and on_cuda:
        return CUDA_MISSING
    return f"{primitive} has no native kernels for {device.type} tensors"


def why_no_triton(primitive: str, device: torch.device) -> str | None:
    """Return why no Triton kernels serve tensors of this device, None where they may."""
    if TRITON_MISSING is not None:
        return TRITON_MISSING
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "Triton kernels run on a GPU; on the CPU only under TRITON_INTERPRET=1, for tests"
    if device.type not in ("cpu", "cuda"):
        return f"{primitive} has no Triton kernels for {device.type} tensors"
    return _why_no_gpu(device.index) if device.type == "cuda" else None


def _why_no_gpu(index: int | None) -> str | None:
    """Return why Triton kernels do not run on this GPU, None where they may, or there is none."""
    if torch.version.hip is not None:
        return "the Triton kernels have instructions of NVIDIA's GPUs"
    capability = _capability(index)
    if capability is None or capability >= _CAPABILITY_NEEDED:
        return None
    needed, found = (f"{major}.{minor}" for major, minor in (_CAPABILITY_NEEDED, capability))
    return f"the Triton kernels need compute capability {needed}, this GPU has {found}"


# What torch.compiler.assume_constant_result sets; calling it imports torch._dynamo, which costs
# every process that imports this package a second and 145 MiB.
_why_no_gpu._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache  # every call of a loss asks
def _capability(index: int | None) -> tuple[int, int] | None:
    return torch.cuda.get_device_capability(index) if torch.cuda.is_available() else None
