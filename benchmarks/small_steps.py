"""What a step costs where the volume is small: the losses and drop-ins on a batch of small images.

    python -m benchmarks.small_steps             # the losses of the package
    python -m benchmarks.small_steps compat      # the drop-in classes; NAME... for some of either
    python -m benchmarks.small_steps compiled    # under torch.compile, too, of what MONAI has

Microseconds of forward and backward together, on the CPU. "hot" is a loss alone, step after step:
all that it needs is in the processor's caches. "mixed" is in turn with its peer, as a network's
layers would run between the steps: half of the time then is code and data that come back. The
ratio is that of the mixed medians. The floor is the same step of 2x4x8x8, of which the kernels
need about nothing. "compiled" runs seven steps in turn: the package's loss, its drop-in class and
MONAI's, each eagerly and under torch.compile; and a sum alone under torch.compile.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import warnings
from collections.abc import Iterator

import torch

import segloss_fast
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
OVER_SUMS = (
    *("DiceLoss", "GeneralizedDiceLoss", "DiceCELoss", "DiceFocalLoss", "GeneralizedDiceFocalLoss"),
    *("TverskyLoss", "FocalLoss", "MCCLoss", "MaskedDiceLoss", "AsymmetricUnifiedFocalLoss"),
    *(*dropins.PARTS, "GeneralizedWassersteinDiceLoss"),
)
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


def compiled(names: list[str]) -> Iterator[tuple[str, dict[str, Step]]]:
    """Yield the steps of each loss over sums that MONAI has, by whose they are."""
    for dropin in dropins.MONAI:
        shape = dropin.shape(2, SIDE, 2)
        if shape is None or dropin.name not in (names or OVER_SUMS):
            continue
        torch.compiler.reset()  # it keeps so many graphs of the same code, and no more
        inputs, targets = dropin.inputs(shape), dropin.targets(shape)
        losses = {"drop-in": dropins.ours(dropin, 2), "MONAI": dropins.theirs(dropin, 2)}
        if dropin.call is dropins.on_labels and dropin.classes == dropins.CLASSES:
            losses = {"ours": getattr(segloss_fast, dropin.name)(), **losses}
        total = torch.compile(lambda inputs, targets: (inputs[0] * 1).sum())
        steps = {"a sum": Step(total, inputs, ())}
        for whose, loss in losses.items():
            graph: Loss = torch.compile(loss, dynamic=False, fullgraph=whose != "MONAI")
            steps[whose] = Step(called(dropin, loss), inputs, targets)
            steps[f"{whose}, compiled"] = Step(called(dropin, graph), inputs, targets)
        yield dropin.name, steps


def compare_compiled(names: list[str], rounds: int) -> None:
    """Print what each step takes, and how often MONAI's eager one the slower compiled one is."""
    columns = (
        "a sum",
        "ours",
        "ours, compiled",
        "drop-in",
        "drop-in, compiled",
        "MONAI",
        "MONAI, compiled",
    )
    print(f"{'loss':31}" + "".join(f"{column:>18}" for column in columns) + "  ratio")
    for title, steps in compiled(names):
        gc.collect()
        found = in_turn(steps, rounds)
        own = max(found.get("ours, compiled", 0), found["drop-in, compiled"])
        cells = (f"{found[column]:18.0f}" if column in found else " " * 18 for column in columns)
        print(f"{title:31}" + "".join(cells) + f"{found['MONAI'] / own:7.2f}")
        sys.stdout.flush()


def in_turn(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Return the median of each step, of rounds that begin with another one each."""
    names = list(steps)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-WARM, rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            one = microseconds(steps[name])
            if turn >= 0:
                taken[name].append(one)
    return {name: statistics.median(times) for name, times in taken.items()}


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
    parser.add_argument("names", nargs="*", help="'compat', 'compiled', or losses")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--threads", type=int, default=THREADS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    names = [name for name in given.names if name not in ("compat", "compiled")]
    dotted = "compat" in given.names or any("." in name for name in names)
    print(f"2x4x{SIDE}x{SIDE}, float32, int64 labels, {given.threads} threads, microseconds")
    if "compiled" in given.names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.disable()
            compare_compiled(names, given.rounds)
        return
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
