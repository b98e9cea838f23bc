"""How fast the native kernels of region_sums are where memory does not matter.

Prints nanoseconds per logit, of one thread, of forward and of backward, for each instruction set
and some numbers of classes, with the terms of DiceCE (softmax; sigmoid for one class) and labels of
a byte. What a call costs besides is left out: the difference of two sizes counts, of which the
larger still lies in the second-level cache. Of another commit, run it in a checkout of that:

    python benchmarks/region_sums_in_cache.py --classes 1 2 4 14
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.tables.cells import table
from segloss_fast._native import _C
from segloss_fast.ops.region_sums import ACTIVATIONS, TERMS

BLOCK = 512  # voxels, of which all sizes are multiples
CAPABILITIES = ("baseline", "avx2", "avx512")


def fastest(call: Callable[[], object], seconds: float = 0.2) -> float:
    """Return the seconds of the fastest of many calls."""
    found, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        call()
        found = min(found, time.perf_counter() - begun)
    return found


def times(classes: int, voxels: int, dtype: torch.dtype, anything: bool) -> tuple[float, float]:
    """Return the seconds of forward and of backward."""
    x = torch.randn(1, classes, voxels)
    labels = torch.randint(max(classes, 2), (1, voxels)).to(dtype)
    one = classes == 1
    more = (*(("nll_neg",) if one else ()), *(("pred_sq",) if anything else ()))
    names = ("tp", "pred", "target", "nll", *more, "weight")
    activation = ACTIVATIONS.index("sigmoid" if one else "softmax")
    codes = ([TERMS.index(name) for name in names], activation, activation, 2.0, None)
    rows = torch.full((len(names), 1, classes), 0.1, dtype=torch.float64)
    operators = torch.ops.segloss_fast
    return (
        fastest(lambda: operators._region_sums([x], [labels], [], *codes)),
        fastest(lambda: operators._region_sums_backward(rows, [x], [labels], [], *codes)),
    )


def nanoseconds(classes: int, dtype: torch.dtype, anything: bool) -> str:
    """Return those per logit, of forward and of backward, between 2^14 and 2^17 logits."""
    sizes = [values // classes // BLOCK * BLOCK for values in (1 << 14, 1 << 17)]
    small, large = (times(classes, voxels, dtype, anything) for voxels in sizes)
    logits = (sizes[1] - sizes[0]) * classes
    return " / ".join(f"{(b - a) / logits * 1e9:.2f}" for a, b in zip(small, large, strict=True))


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 2, 3, 4, 14])
    parser.add_argument("--labels", default="uint8", help="dtype of the labels")
    parser.add_argument(
        "--any-problem", action="store_true", help="one more term, of the kernel for any problem"
    )
    options = parser.parse_args(arguments)
    if _C is None:
        parser.error("the native module is not built")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    best = CAPABILITIES.index(_C.cpu_capability())
    rows = []
    for name in CAPABILITIES[: best + 1]:
        _C.set_cpu_capability(name)
        cells = [
            nanoseconds(classes, getattr(torch, options.labels), options.any_problem)
            for classes in options.classes
        ]
        rows.append([name, *cells])
    print(table(["forward / backward", *(f"C={classes}" for classes in options.classes)], rows))


if __name__ == "__main__":
    main(sys.argv[1:])
