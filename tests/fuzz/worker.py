"""The process that makes the calls: it says which before each, and may be ended in any of them.

python -m tests.fuzz.worker KIND FIRST LAST
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import time
import warnings

import torch

from segloss_fast._native import _C
from tests.fuzz import calls, raw

MEMORY = 16 * 2**30  # bytes of addresses: what asks for more gets an error, as on a small machine


def limit_memory() -> None:
    """Let what asks for absurd memory fail at once."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def planted(seed: int) -> str:
    """Do what must be noticed: nothing, an end of the process, a wait, a wrong answer."""
    if seed == 1:
        os.abort()
    if seed == 2:
        time.sleep(1000)
    assert seed != 3, "a wrong answer"
    return "served"


def main(kind: str, first: int, last: int) -> None:
    """Make the calls of these seeds; write a line of JSON before and after each."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    limit_memory()
    recorded = raw.record() if kind == "raw" and _C is not None else []
    if kind == "raw" and not recorded:
        return  # there are none
    for seed in range(first, last):
        print(json.dumps({"begins": seed}), flush=True)
        try:
            outcome = (
                planted(seed)
                if kind == "planted"
                else (calls.run(seed) if kind == "public" else raw.run(seed, recorded))
            )
        except Exception as error:
            outcome = f"wrong: {type(error).__name__}: {error}"
        print(json.dumps({"outcome": outcome}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
