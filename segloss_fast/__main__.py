"""``python -m segloss_fast``: what runs here, and why the rest does not."""

from __future__ import annotations

import platform

import torch

from segloss_fast import __version__, backends
from segloss_fast._native import _C


def main() -> None:
    """Print versions, the build, and a line per implementation."""
    print(
        f"segloss_fast {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    )
    if _C is None:
        print("native module: not built")
    else:
        build = _C.build_info()
        cuda = ", ".join(build["cuda_architectures"]) or "none"
        print(
            f"native module: {build['compiler']}, LibTorch ABI {build['abi_target']}, "
            f"CUDA architectures: {cuda}\n  flags: {build['flags']}"
        )
    for backend in backends():
        mark = "yes" if backend.available else "no "
        print(
            f"{backend.primitive:18} {backend.device:5} {backend.impl:10} {mark}  {backend.detail}"
        )


if __name__ == "__main__":
    main()
