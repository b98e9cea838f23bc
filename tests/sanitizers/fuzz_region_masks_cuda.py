"""Calls the CUDA kernels of region_masks, built with sanitizers for the CPU, in many ways.

The argument is the library of operators.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from tests.cuda_shim.operators import load
from tests.ops.region_masks_cases import check, random_case
from tests.ops.region_masks_shim import run, run_malformed

ROUNDS = 60


def main() -> None:
    library = load(Path(sys.argv[1]))
    draw = random.Random(0)
    for number in range(ROUNDS):
        library.segloss_shim_set_seed(number)
        case = random_case(draw)
        check(run(case), case)
    run_malformed()
    print("no finding")


if __name__ == "__main__":
    main()
