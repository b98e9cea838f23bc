"""The demo's tables, and the checks of what it promises."""

from __future__ import annotations

from examples.brain_data import CLASSES, Head
from examples.brain_step import Cost
from examples.brain_train import Training

OURS = "network"  # names of trainings
REFERENCE = "network, reference loss"
TISSUES = (2, 3)  # gray and white matter
EARLY = (
    5  # steps; training amplifies any difference in rounding, so that later ones may differ more
)


def print_scores(
    scores: dict[str, list[float]], errors: dict[str, list[float]], head: Head
) -> None:
    """Print the Dice coefficient and the boundary error of every class on the slab.

    Args:
        scores: Name and Dice of every class.
        errors: Name and surface error of every class in mm.
        head: The data.
    """
    first, last, height = head.slab.start, head.slab.stop - 1, head.image.shape[2]
    width = max(map(len, scores))
    for title, rows, digits in (
        ("Dice", scores, 3),
        ("Surface distance, 95th percentile in mm,", errors, 1),
    ):
        print(f"\n{title} on the held-out axial slices {first} to {last} of {height}")
        print(" " * width, *(f"{name:>13}" for name in CLASSES))
        for name, values in rows.items():
            print(f"{name:<{width}}", *(f"{value:13.{digits}f}" for value in values))


def print_share(title: str, impl: str, training: Training) -> None:
    """Print what part of a training step the loss took.

    The times of whole trainings, one after the other, differ by more than the losses do.

    Args:
        title: Name of the training.
        impl: The implementation of its loss.
        training: What came out.
    """
    steps = len(training.losses)
    loss, step = (1000 * s / steps for s in (training.loss_seconds, training.seconds))
    print(
        f"{title}, impl={impl!r}: the loss took {loss:.1f} ms of a step's {step:.0f} ms "
        f"({loss / step:.1%})"
    )


def print_costs(costs: dict[str, Cost], measured: str) -> None:
    """Print time and memory of every loss, and its time as a multiple of the first one's.

    Args:
        costs: Name and cost of every loss.
        measured: What was measured.
    """
    print(f"\nDiceCELoss of one training step, forward + backward: {measured}")
    width = max(map(len, costs))
    print(f"{'':<{width}} {'ms':>9} {'ratio':>7} {'MB above inputs and gradient':>29} {'loss':>11}")
    first = next(iter(costs.values())).milliseconds
    for name, cost in costs.items():
        print(
            f"{name:<{width}} {cost.milliseconds:9.1f} {cost.milliseconds / first:7.1f} "
            f"{cost.megabytes:29.2f} {cost.value:11.7f}"
        )


def drift(scores: dict[str, list[float]]) -> float:
    """Return the largest difference in Dice between the trainings with the reference loss.

    Args:
        scores: Name and Dice of every class.
    """
    first, *others = (row for name, row in scores.items() if name.startswith(REFERENCE))
    return max(
        (abs(a - b) for other in others for a, b in zip(first, other, strict=True)), default=0.0
    )


def check(
    scores: dict[str, list[float]], ours: Training, reference: Training
) -> list[tuple[bool, str]]:
    """Check what the demo promises.

    Args:
        scores: Dice of every class: of thresholds, and of the trainings (OURS, REFERENCE...). Where
            the reference was trained twice, from weights that differ by rounding, ours may differ
            from it by twice as much as these two do; by 0.02 always.
        ours: The training with the fastest implementation.
        reference: The training with the reference.

    Returns:
        For every promise whether it holds, and what was measured.
    """
    thresholds = [row for name, row in scores.items() if name.startswith("thresholds")]
    first, second = scores[OURS], scores[REFERENCE]
    allowed = max(0.02, 2 * drift(scores))
    results = []
    for index in TISSUES:
        lowest, best = min(first[index], second[index]), max(row[index] for row in thresholds)
        results.append((lowest > 0.8, f"{CLASSES[index]}: Dice {lowest:.3f} > 0.80"))
        results.append(
            (lowest > best, f"{CLASSES[index]}: Dice {lowest:.3f} > thresholds' {best:.3f}")
        )
    pairs = list(zip(ours.losses, reference.losses, strict=True))
    early = max(abs(a - b) for a, b in pairs[:EARLY])
    results.append(
        (early <= 1e-5, f"loss of the first {EARLY} steps: difference {early:.1e} <= 1e-5")
    )
    for name, a, b in zip(CLASSES, first, second, strict=True):
        gap = abs(a - b)
        results.append(
            (gap <= allowed, f"{name}: final Dice differs by {gap:.4f} <= {allowed:.3f}")
        )
    return results


def print_checks(results: list[tuple[bool, str]]) -> bool:
    """Print what :func:`check` found, and return whether every promise holds."""
    for holds, text in results:
        print(f"{'ok    ' if holds else 'FAILED'} {text}")
    failed = sum(not holds for holds, _ in results)
    if failed:
        print(f"\n{failed} of {len(results)} promises do not hold.")
    return not failed
