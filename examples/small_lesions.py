"""Train on lesions of very different size, with DiceCE and with a loss to which all count alike.

The head is the MNI152 template of the demo, a population average. The lesions are synthetic:
spheres of 1 to 7 voxels' radius, darker than the brain around them (examples/lesion_data.py). In
every step a head gets new ones and a scanner's noise; patches of it are trained on. Then whole
heads with other lesions and other noise are segmented, and lesions are counted by size: those of
which at least one voxel was predicted, and predicted components that touch none. The brain
is the same in training and in test, so this tells how losses weigh small targets, and nothing of
patients.

Both losses get the same settings, initial weights and batches; ``ComponentDiceCELoss`` is
``DiceCELoss`` plus its term over components. Several seeds show what is chance.

    python examples/small_lesions.py                      # with three seeds
    python examples/small_lesions.py --seeds 0 --steps 100

Seeds that the output's small_lesions.json has, of the same settings, are not trained again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import segloss_fast

# As a script it would find only its own folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from examples.brain_data import VALIDATION_SEED, Head, corrupt, load_head, random_box
from examples.brain_train import Batches, Recipe, fit, predict
from examples.lesion_data import Places, insert_lesions
from examples.lesion_plots import plot_lesions
from examples.lesion_scores import Scores, runs_of, score, table
from examples.unet3d import UNet3d

RESOLUTION = 2  # mm
LESIONS = 40  # in each head
TEST_HEADS = 5


def losses() -> dict[str, nn.Module]:
    """Return the losses by name: pooled over the batch, since a patch may have no lesion."""
    return {
        "DiceCELoss": segloss_fast.DiceCELoss(include_background=False, batch=True),
        "ComponentDiceCELoss": segloss_fast.ComponentDiceCELoss(
            include_background=False, batch=True
        ),
    }


def training_batches(head: Head, places: Places, recipe: Recipe) -> Batches:
    """Return what draws the batches: patches of a head with new lesions, noise in each.

    Args:
        head: The data.
        places: Of its brain.
        recipe: With size and number of the patches.
    """

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        image, target = insert_lesions(head.image, places, LESIONS, generator)
        images, targets = [], []
        for _ in range(recipe.batch):
            box = random_box(head.labels, recipe.patch, generator)
            flips = torch.randint(0, 2, (3,), generator=generator).nonzero().flatten().tolist()
            images.append(corrupt(image[box], head.resolution, generator).flip(flips))
            targets.append(target[box].flip(flips))
        return torch.stack(images)[:, None], torch.stack(targets)[:, None]

    return draw


def heads_to_test(head: Head, places: Places) -> list[tuple[Tensor, Tensor]]:
    """Return heads with lesions, corrupted, and their targets (bool): the same for every network.

    Args:
        head: The data.
        places: Of its brain.
    """
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    found = []
    for _ in range(TEST_HEADS):
        image, target = insert_lesions(head.image, places, LESIONS, generator)
        found.append((corrupt(image, head.resolution, generator), target.bool()))
    return found


def segment(network: UNet3d, image: Tensor, device: torch.device) -> Tensor:
    """Return where a lesion is more probable than none, ``[X, Y, Z]`` bool on the CPU."""
    return predict(network, image, device)[0].argmax(0).bool().cpu()


def judge(
    network: UNet3d, tests: list[tuple[Tensor, Tensor]], device: torch.device
) -> tuple[Scores, Tensor]:
    """Return the scores of a network, and what it found in the first head."""
    predictions = [segment(network, image, device) for image, _ in tests]
    targets = [target for _, target in tests]
    return score(zip(predictions, targets, strict=True)), predictions[0]


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps of each training")
    parser.add_argument("--patch", type=int, nargs=3, default=[40, 40, 40], help="in voxels")
    parser.add_argument("--batch", type=int, default=2, help="patches per step")
    parser.add_argument("--rate", type=float, default=5e-3, help="largest learning rate")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--threads", type=int, help="CPU threads (torch's choice if absent)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("demo_output"))
    arguments = parser.parse_args()
    if arguments.steps < 2:
        parser.error(f"--steps must be at least 2, got {arguments.steps}")
    return arguments


def train_both(
    head: Head, places: Places, tests: list[tuple[Tensor, Tensor]], recipe: Recipe
) -> tuple[dict[str, Scores], dict[str, Tensor]]:
    """Return the scores after training with each loss, and what was found in the first head.

    Args:
        head: The data.
        places: Of its brain.
        tests: Heads and their targets.
        recipe: How to train, with one seed for both.
    """
    found, pictures = {}, {}
    for name, loss in losses().items():
        title = f"{name}, seed {recipe.seed}"
        batches = training_batches(head, places, recipe)
        training = fit(batches, 2, loss.to(recipe.device), recipe, title)
        scores, pictures[name] = judge(training.network, tests, recipe.device)
        found[name] = scores
        share = training.loss_seconds / training.seconds
        print(
            f"{title}: {sum(scores.found)} of {sum(scores.lesions)} lesions found, "
            f"{scores.false_positives:.1f} false positives per head, Dice {scores.dice:.3f}; "
            f"{training.seconds:.0f} s, of which the loss {share:.1%}",
            flush=True,
        )
    return found, pictures


def numbers_of(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what a file has of earlier seeds with the same settings, nothing of others."""
    if path.exists():
        numbers: dict[str, Any] = json.loads(path.read_text())
        if numbers["settings"] == settings:
            return numbers
    return {"settings": settings, "torch": torch.__version__, "seeds": {}}


def main() -> int:
    """Train with both losses from every seed, print a table, write plot and numbers."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "small_lesions.json"
    names = ("steps", "patch", "batch", "rate")
    numbers = numbers_of(path, {name: getattr(arguments, name) for name in names})
    head = load_head(RESOLUTION)
    places = Places(head.labels > 0)
    tests = heads_to_test(head, places)
    x, y, z = arguments.patch
    settings = arguments.steps, (x, y, z), arguments.batch, arguments.rate
    for seed in arguments.seeds:
        if str(seed) in numbers["seeds"]:
            continue
        start = time.perf_counter()
        recipe = Recipe(*settings, seed, torch.device(arguments.device), width=8)
        found, pictures = train_both(head, places, tests, recipe)
        numbers["seeds"][str(seed)] = {
            "seconds": round(time.perf_counter() - start),
            "threads": torch.get_num_threads(),
            "scores": {name: asdict(scores) for name, scores in found.items()},
        }
        path.write_text(json.dumps(numbers) + "\n")
        runs = runs_of(numbers)
        plot_lesions(tests[0], pictures, runs, arguments.output / "small_lesions.png")
    print(f"\n{table(runs_of(numbers))}\n\nWritten: {arguments.output}/small_lesions.png, .json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
