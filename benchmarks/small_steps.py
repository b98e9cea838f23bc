"""What a step costs where the volume is small: the losses and drop-ins on a batch of small images.

    python -m benchmarks.small_steps             # the losses of the package
    python -m benchmarks.small_steps compat      # the drop-in classes; NAME... for some of either

Microseconds of forward and backward together, on the CPU. "hot" is a loss alone, step after step:
all that it needs is in the processor's caches. "mixed" is in turn with its peer, as a network's
layers would run between the steps: half of the time then is code and data that come back. The
ratio is that of the mixed medians. The floor is the same step of 2x4x8x8, of which the kernels
need about nothing.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import warnings
from collections.abc import Iterator

import torch

from benchmarks.cases import dropins
from benchmarks.cases.contenders import Case, contender, make_inputs, peer
from benchmarks.cases.dropins import DROPINS, DropIn, Loss
from benchmarks.cases.inputs import LossFunction
from benchmarks.measure.harness import Step
from benchmarks.measure.provenance import THREADS

LOSSES = (
    *("Dice", "DiceCE", "DiceFocal", "Tversky", "CE", "GeneralizedDice", "FocalTversky"),
    "DeepSupervision",
)
SIDE = 64
FLOOR = (2, 4, 8, 8)
WARM = 30
Pair = tuple[str, str, Step, Step]  # name, whose the peer is, ours, the peer's


def losses(names: list[str]) -> Iterator[Pair]:
    """Yield the losses of the package, and some at the floor."""
    for name in LOSSES:
        for shape in ((2, 4, SIDE, SIDE), FLOOR):
            if (names and name not in names) or (shape == FLOOR and name not in LOSSES[:2]):
                continue
            case = Case(name, shape)
            inputs, targets = make_inputs(case)
            ours, other = (Step(contender(case, of), inputs, targets) for of in ("native", "eager"))
            title = name if shape != FLOOR else f"{name} {'x'.join(map(str, FLOOR))}"
            yield title, peer(case), ours, other


def compat(names: list[str]) -> Iterator[Pair]:
    """Yield the drop-in classes that take images."""
    for dropin in DROPINS:
        shape = dropin.shape(2, SIDE, 2)
        title = f"{dropin.peer}.{dropin.name}"
        if shape is None or (names and title not in names):
            continue
        inputs, targets = dropin.inputs(shape), dropin.targets(shape)
        steps: list[Step] = []
        for make in (dropins.ours, dropins.theirs):
            loss = make(dropin, 2)
            steps.append(Step(called(dropin, loss), inputs, targets))
        ours, theirs = steps
        yield title, dropins.PEERS[dropin.peer], ours, theirs


def called(dropin: DropIn, loss: Loss) -> LossFunction:
    """Return a drop-in as a function of inputs and targets."""
    return lambda inputs, targets: dropin.call(loss, inputs, *targets)


def microseconds(step: Step) -> float:
    """Return what a step took."""
    return 1e6 * step()["both"]


def measure(ours: Step, other: Step, rounds: int) -> tuple[float, float, float]:
    """Return ours hot, and ours and the peer's mixed, each a median."""
    for _ in range(WARM):
        microseconds(ours)
    hot = statistics.median(microseconds(ours) for _ in range(rounds))
    taken: tuple[list[float], list[float]] = [], []
    for turn in range(rounds):
        pair = (ours, other), (other, ours)
        for step in pair[turn % 2]:
            taken[step is other].append(microseconds(step))
    return hot, statistics.median(taken[0]), statistics.median(taken[1])


def main(arguments: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="'compat', or losses")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--threads", type=int, default=THREADS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    names = [name for name in given.names if name != "compat"]
    dotted = "compat" in given.names or any("." in name for name in names)
    print(f"2x4x{SIDE}x{SIDE}, float32, int64 labels, {given.threads} threads, microseconds")
    print(f"{'loss':40} {'hot':>6} {'mixed':>6} {'peer':>7} {'ratio':>6}")
    gc.disable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for title, whose, ours, other in compat(names) if dotted else losses(names):
            gc.collect()
            slow = microseconds(other) > 4000  # steps of milliseconds need no 400 rounds
            hot, mixed, peers = measure(ours, other, 40 if slow else given.rounds)
            print(f"{title:40} {hot:6.0f} {mixed:6.0f} {peers:7.0f} {peers / mixed:6.2f} {whose}")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
