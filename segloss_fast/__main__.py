"""``python -m segloss_fast``: what runs here, and why the rest does not.

The first lines are the verdict; ``-v`` adds how the native libraries were built, and a line for
each implementation of each operator. ``--compat`` prints instead which packages have drop-in
modules, and which versions of them are matched and installed; ``--nnunet-trainers`` the folder that
the variable nnUNet_extTrainer must name, so that nnU-Net finds the trainers of this package.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterable, Iterator

import torch

from segloss_fast import __version__, backends
from segloss_fast._install import details, why_pure
from segloss_fast._native import _C, CUDA_MISSING, TRITON_MISSING
from segloss_fast.compat._peers import PEERS, report

NAMES = {"avx512": "AVX-512", "avx2": "AVX2", "baseline": "baseline instructions"}


def verdict() -> Iterator[str]:
    """Yield a line for the CPU and one for the GPU."""
    if _C is None:
        yield f"CPU: plain PyTorch, because {why_pure()}"
    else:
        yield f"CPU: all operators in C++ ({NAMES.get(_C.cpu_capability(), _C.cpu_capability())})"
    if not torch.cuda.is_available():
        yield "GPU: none, torch sees no CUDA device"
        return
    name = torch.cuda.get_device_name()
    kinds = [
        kind for kind, why in (("CUDA C++", CUDA_MISSING), ("Triton", TRITON_MISSING)) if not why
    ]
    missing = "; ".join(why for why in (CUDA_MISSING, TRITON_MISSING) if why)
    runs = " and ".join(kinds) or "plain PyTorch"
    yield f"GPU: {runs} on {name}" + (f" ({missing})" if missing else "")


def rows() -> Iterator[str]:
    """Yield versions, the build, and a line per implementation."""
    python = platform.python_version()
    yield f"segloss_fast {__version__}, torch {torch.__version__}, Python {python}"
    if _C is not None:
        build = _C.build_info()
        cuda = ", ".join(build["cuda_architectures"]) or "none"
        compiler, abi = build["compiler"], build["abi_target"]
        yield f"native module: {compiler}, LibTorch ABI {abi}, CUDA architectures: {cuda}"
        yield f"  flags: {build['flags']}"
    elif (said := details()) is not None:
        yield f"native module: none: {said}"
    for row in backends():
        mark = "yes" if row.available else "no "
        yield f"{row.primitive:18} {row.device:5} {row.impl:10} {mark}  {row.detail}"


def trainers() -> Iterator[str]:
    """Yield the folder of the trainers for nnU-Net; say on stderr if nnU-Net is not there.

    Raises:
        SystemExit: If nnU-Net is too old to find them.
    """
    from segloss_fast.compat.nnunet import TRAINERS, too_old

    if (old := too_old()) is not None:
        raise SystemExit(old)
    if PEERS["nnunet"].installed() is None:
        print("nnU-Net is not installed here: pip install nnunetv2", file=sys.stderr)
    yield str(TRAINERS)


def main() -> None:
    """Print the verdict, with ``-v`` the rows too; or what another option asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m segloss_fast", description="What of segloss_fast runs here, and why."
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="a line for each implementation too"
    )
    parser.add_argument(
        "--compat", action="store_true", help="the packages that have drop-in modules, instead"
    )
    parser.add_argument(
        "--nnunet-trainers",
        action="store_true",
        help="the folder of the trainers for nnU-Net, for nnUNet_extTrainer, instead",
    )
    options = parser.parse_args()
    said: Iterable[str]
    if options.nnunet_trainers:
        said = trainers()
    else:
        said = report() if options.compat else (*verdict(), *(rows() if options.verbose else ()))
    try:
        for line in said:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:  # of a reader that has seen enough, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
