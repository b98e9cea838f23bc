"""Kernels that share memory by hand, each on a problem of a few blocks: for compute-sanitizer.

    compute-sanitizer --tool racecheck python -m tests.gpu.check.tiny FOLDER [--device cpu]

No value is judged here: smoke.py does.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

import segloss_fast
from segloss_fast import functional
from tests.gpu.check.journal import Journal, arguments, synchronize
from tests.gpu.check.problems import Problem, graded

SIZE = (7, 9, 33)


def distances(shape: tuple[int, ...], part: float, device: str) -> None:
    """Transform a mask with this part of its voxels set."""
    source = torch.Generator(device).manual_seed(0)
    mask = torch.rand((1, 1, *shape), generator=source, device=device) < part
    segloss_fast.distance_transform(mask, side="signed", impl="native")


def labels_of(device: str) -> Tensor:
    source = torch.Generator(device).manual_seed(0)
    return torch.randint(0, 3, (1, 1, 9, 20, 70), generator=source, device=device)


def trials(device: str) -> dict[str, Callable[[], object]]:
    """Return what is called, by name."""

    def loss(classes: int, call: Callable[..., Tensor], last: bool = False) -> Callable[[], object]:
        problem = Problem(classes, SIZE, channels_last=last)
        return lambda: graded(call, *problem.tensors(device), impl="native")

    def lovasz(method: str) -> Callable[..., Tensor]:
        return lambda x, y, impl: functional.lovasz_softmax_loss(x, y, impl=impl, method=method)

    found: dict[str, Callable[[], object]] = {
        f"dice_ce C={classes}": loss(classes, functional.dice_ce_loss) for classes in (4, 33, 105)
    }
    found["dice_ce channels last"] = loss(4, functional.dice_ce_loss, last=True)
    for method in ("histogram", "sort"):
        for classes in (4, 20):
            found[f"lovasz {method} C={classes}"] = loss(classes, lovasz(method))
    # Near sites are searched for outwards, far ones by divide and conquer.
    found["distances near"] = lambda: distances((20, 24, 40), 0.5, device)
    found["distances far"] = lambda: distances((9, 300, 40), 0.0005, device)
    found["masks"] = loss(4, functional.hausdorff_dt_loss)
    found["components"] = lambda: segloss_fast.connected_components(
        labels_of(device), impl="native"
    )
    found["components by value"] = lambda: segloss_fast.connected_components(
        labels_of(device), by_value=True, impl="native"
    )
    found["component sums"] = loss(4, functional.component_dice_ce_loss)
    found["nearest"] = lambda: segloss_fast.nearest_component(labels_of(device), impl="native")
    return found


def main() -> int:
    """Call each, and wait for the device behind each."""
    warnings.simplefilter("ignore")
    options = arguments(__doc__ or "")
    journal = Journal(options.folder / "tiny.jsonl")
    journal.found.clear()  # each tool runs all of them

    def run(call: Callable[[], object]) -> dict[str, bool]:
        call()
        synchronize(options.device)
        return {"ok": True}

    for name, call in trials(options.device).items():
        journal.note(name, run, call)
    return journal.end()


if __name__ == "__main__":
    sys.exit(main())
