"""Train the demo's network with each of ten losses, and draw Dice and boundary error against time.

Every training has the same seed, and so the same initial weights and batches; only the loss
differs. The time is that of the training: forward, backward and optimiser, without the judging. The
losses' own settings are the usual ones, untuned: one seed on one head ranks nothing, it shows that
every loss trains and what it costs.

    python examples/compare_losses.py                # eleven minutes on two CPU cores
    python examples/compare_losses.py --losses DiceCE LovaszSoftmax+CE --steps 100
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

import segloss_fast

# As a script it would find only its own folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from examples.brain_data import CLASSES, VALIDATION_SEED, Head, corrupt, dice_per_class, load_head
from examples.brain_plots import plot_progress
from examples.brain_report import TISSUES
from examples.brain_surface import error_per_class
from examples.brain_train import Recipe, label_slab, train
from examples.unet3d import UNet3d


class Weighted(nn.Module):
    """A sum of losses with factors."""

    def __init__(self, *parts: tuple[float, nn.Module]) -> None:
        super().__init__()
        self.factors = [factor for factor, _ in parts]
        self.losses = nn.ModuleList(loss for _, loss in parts)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        total = input.new_zeros(())
        for factor, loss in zip(self.factors, self.losses, strict=True):
            total = total + factor * loss(input, target)
        return total


def losses(spacing: float) -> dict[str, Callable[[], nn.Module]]:
    """Return the losses' names and constructors.

    Args:
        spacing: Side of a voxel in mm.
    """

    def boundary() -> nn.Module:
        region = segloss_fast.GeneralizedDiceLoss(batch=True)
        surface = segloss_fast.BoundaryLoss(include_background=False, spacing=spacing)
        return Weighted((1.0, region), (0.01, surface))

    def hausdorff() -> nn.Module:
        surface = segloss_fast.LogHausdorffDTLoss(
            include_background=False, batch=True, spacing=spacing
        )
        return Weighted((1.0, segloss_fast.DiceCELoss(batch=True)), (0.1, surface))

    return {
        "CrossEntropy": segloss_fast.CrossEntropyLoss,
        "Dice": lambda: segloss_fast.DiceLoss(batch=True),
        "DiceCE": lambda: segloss_fast.DiceCELoss(batch=True),
        "DiceFocal": lambda: segloss_fast.DiceFocalLoss(batch=True),
        "DiceTopK": lambda: segloss_fast.DiceTopKLoss(batch=True),
        "FocalTversky": lambda: segloss_fast.FocalTverskyLoss(batch=True),
        "ExpLog": lambda: segloss_fast.ExpLogLoss(batch=True),
        "LovaszSoftmax+CE": lambda: segloss_fast.LovaszSoftmaxLoss(ce_weight=1.0),
        "GeneralizedDice+Boundary": boundary,
        "DiceCE+LogHausdorff": hausdorff,
    }


@dataclass
class Progress:
    """How one training went.

    Attributes:
        seconds: Of training, at every look.
        dice: Mean Dice of gray and white matter on the slab.
        surface: Their mean surface distance at the 95th percentile in mm, NaN where a tissue was
            not found.
    """

    seconds: list[float] = field(default_factory=list)
    dice: list[float] = field(default_factory=list)
    surface: list[float] = field(default_factory=list)


class Judge:
    """Labels the slab and compares with the truth."""

    def __init__(self, head: Head, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(VALIDATION_SEED)
        self.image = corrupt(head.image, head.resolution, generator)
        self.slab = head.slab
        self.truth = head.labels[:, :, head.slab]
        self.spacing = head.resolution
        self.device = device

    def __call__(self, network: UNet3d) -> tuple[float, float]:
        """Return mean Dice and mean surface distance of gray and white matter."""
        labels = label_slab(network, self.image, self.slab, self.device)
        dice = dice_per_class(labels, self.truth)
        errors = error_per_class(labels, self.truth, len(CLASSES), self.spacing)
        return _mean([dice[c] for c in TISSUES]), _mean([errors[c] for c in TISSUES])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def follow(
    head: Head, loss: nn.Module, recipe: Recipe, name: str, judge: Judge, looks: int
) -> Progress:
    """Train with a loss and look at the network so many times, the last time at the end."""
    progress = Progress()
    at = {round(recipe.steps * (i + 1) / looks) for i in range(looks)}

    def observe(step: int, seconds: float, network: UNet3d) -> None:
        if step not in at:
            return
        dice, surface = judge(network)
        progress.seconds.append(seconds)
        progress.dice.append(dice)
        progress.surface.append(surface)

    train(head, loss, recipe, name, observe)
    return progress


def main() -> int:
    """Train with every loss, print a table, write the plot and the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    known = losses(1.0)
    parser.add_argument("--losses", nargs="+", choices=known, default=list(known), metavar="LOSS")
    parser.add_argument("--steps", type=int, default=180, help="optimiser steps of each training")
    parser.add_argument("--looks", type=int, default=10, help="points of each curve")
    parser.add_argument("--resolution", type=int, choices=(1, 2), default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("demo_output"))
    arguments = parser.parse_args()
    if not 1 <= arguments.looks <= arguments.steps:
        parser.error(f"--looks must be between 1 and --steps, got {arguments.looks}")
    device = torch.device(arguments.device)
    head = load_head(arguments.resolution)
    recipe = Recipe(arguments.steps, (32, 32, 32), 4, 5e-3, arguments.seed, device)
    judge = Judge(head, device)
    runs = {}
    for name, make in losses(head.resolution).items():
        if name not in arguments.losses:
            continue
        progress = follow(head, make().to(device), recipe, name, judge, arguments.looks)
        runs[name] = progress
        print(
            f"{name:26} Dice {progress.dice[-1]:.3f}, 95 % surface distance "
            f"{progress.surface[-1]:.1f} mm, {progress.seconds[-1]:.0f} s",
            flush=True,
        )
    arguments.output.mkdir(parents=True, exist_ok=True)
    numbers = {name: asdict(progress) for name, progress in runs.items()}
    (arguments.output / "losses.json").write_text(json.dumps(numbers, indent=1))
    plot_progress(numbers, arguments.output / "losses.png")
    print(f"\nWritten: {arguments.output}/losses.png, losses.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
