"""Random calls for as long as it is told: python -m tests.fuzz [--seconds N] [--seed N].

Ends with status 1 if a call crashed, hung, answered otherwise than the reference, or was refused
without a word.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.fuzz.drive import KINDS, drive

ROUND = 500  # calls of a worker


def main() -> int:
    """Make calls, and tell what came of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long, about (default 60)")
    parser.add_argument("--seed", type=int, default=10**6, help="of the first call")
    chosen = parser.parse_args()
    end, seed, wrong = time.monotonic() + chosen.seconds, chosen.seed, 0
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    while time.monotonic() < end:
        for kind in KINDS:
            found = drive(kind, seed, seed + ROUND)
            counts[kind] += found.counts
            wrong += len(found.wrong)
            print("".join(f"{each}\n\n" for each in found.wrong), end="", flush=True)
        seed += ROUND
    for kind, of_kind in counts.items():
        listed = ", ".join(f"{number} {name}" for name, number in sorted(of_kind.items()))
        print(f"{kind}: {sum(of_kind.values())} calls: {listed}")
    print(f"{wrong} wrong; the next seed is {seed}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
