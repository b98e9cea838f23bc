"""Train a small 3-D U-Net on a head MRI with DiceCELoss, and compare the loss with others.

The network learns background, other brain, gray and white matter of the MNI152 template (a
population average, not a patient) under noise, on all axial slices but a slab, and is judged on
that slab beside the best intensity thresholds. It is trained twice from the same seed, with the
fastest implementation of the loss and with the reference, which must agree. Then the loss of one
training step is timed beside MONAI's. ``--loss dice_ce_hausdorff`` trains with a Hausdorff loss
besides. Takes about three minutes on two CPU cores; uses a GPU if there is one. Exits with 1 if
a promise fails.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import monai
import torch
from monai.losses import DiceCELoss as MonaiDiceCELoss
from torch import Tensor

import segloss_fast

# As a script it would find only its own folder.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from examples.brain_data import (
    CLASSES,
    VALIDATION_SEED,
    Head,
    corrupt,
    dice_per_class,
    load_head,
    training_slices,
)
from examples.brain_loss import LOSSES, make_loss
from examples.brain_plots import plot_costs, plot_losses, plot_slices
from examples.brain_report import (
    EARLY,
    OURS,
    REFERENCE,
    check,
    print_checks,
    print_costs,
    print_scores,
    print_share,
)
from examples.brain_step import Cost, Loss, measure, runs
from examples.brain_surface import error_per_class
from examples.brain_thresholds import apply_thresholds, fit_thresholds
from examples.brain_train import Recipe, Training, label_slab, predict, train
from examples.unet3d import UNet3d

LARGEST = 128  # side of the timed batch in voxels


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=180, help="optimiser steps of each training")
    parser.add_argument("--loss", choices=LOSSES, default=LOSSES[0], help="what to train with")
    parser.add_argument("--patch", type=int, nargs=3, default=(32, 32, 32), help="in voxels")
    parser.add_argument("--batch", type=int, default=4, help="patches per step")
    parser.add_argument("--rate", type=float, default=5e-3, help="largest learning rate")
    parser.add_argument(
        "--resolution", type=int, choices=(1, 2), default=2, help="voxel side in mm"
    )
    parser.add_argument("--repeats", type=int, default=15, help="timed steps of each loss")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data")
    parser.add_argument("--threads", type=int, help="CPU threads (torch's choice if absent)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--output", type=Path, default=Path("demo_output"), help="folder of the PNGs"
    )
    arguments = parser.parse_args()
    if arguments.steps < EARLY:
        parser.error(f"--steps must be at least {EARLY}, got {arguments.steps}")
    return arguments


def auto_impl(device: torch.device) -> str:
    """Return the implementation that ``impl="auto"`` takes on a device."""
    kernels = [
        backend.impl
        for backend in segloss_fast.backends()
        if backend.primitive == "region_sums"
        and backend.device == device.type
        and backend.available
    ]
    return next((impl for impl in kernels if impl != "reference"), "reference")


def label_all(
    head: Head, image: Tensor, trainings: dict[str, Training], device: torch.device
) -> dict[str, Tensor]:
    """Label the slab by thresholds and by the networks.

    Args:
        head: The data.
        image: The corrupted head, ``[X, Y, Z]``.
        trainings: Name and training.
        device: Where the networks are.

    Returns:
        Name and class indices ``[X, Y, slab]``: by thresholds fitted on the training slices, by
        thresholds fitted on the slab itself, which no honest ones can beat, and by each network.
    """
    slab, rest = head.slab, training_slices(head)
    labellings = {}
    for name, part in {"thresholds": rest, "thresholds fitted on the slab": ~rest}.items():
        thresholds = fit_thresholds(image[:, :, part], head.labels[:, :, part])
        labellings[name] = apply_thresholds(image[:, :, slab], thresholds)
    for name, training in trainings.items():
        labellings[name] = label_slab(training.network, image, slab, device)
    return labellings


def compare_costs(
    head: Head, network: UNet3d, impl: str, device: torch.device, repeats: int
) -> tuple[dict[str, Cost], str]:
    """Measure the loss of a training step on a real batch: the middle of the head, corrupted twice.

    Args:
        head: The data.
        network: A trained network: its logits are what a loss meets for most of a training.
        impl: What ``impl="auto"`` takes.
        device: Where to measure.
        repeats: Timed steps of each loss.

    Returns:
        Name and cost of every loss, and what was measured in words.
    """
    generator = torch.Generator().manual_seed(VALIDATION_SEED + 1)
    starts = [max(0, (side - LARGEST) // 2) for side in head.image.shape]
    x, y, z = (slice(start, start + LARGEST) for start in starts)
    image, labels = head.image[x, y, z], head.labels[x, y, z].to(device)
    heads = [corrupt(image, head.resolution, generator) for _ in range(2)]
    logits = torch.cat([predict(network, one, device) for one in heads])
    batch = labels.expand(2, 1, *labels.shape).contiguous()
    theirs = MonaiDiceCELoss(softmax=True, to_onehot_y=True, batch=True)
    losses: dict[str, Loss] = {
        f"segloss_fast, {impl}": segloss_fast.DiceCELoss(batch=True, impl=impl),
        "segloss_fast, reference": segloss_fast.DiceCELoss(batch=True, impl="reference"),
        "MONAI": theirs,
    }
    compiled = torch.compile(theirs)
    if runs(compiled, logits, batch):
        losses["MONAI, torch.compile"] = compiled
    shape = "x".join(map(str, logits.shape))
    return measure(losses, logits, batch, repeats), f"logits {shape}, {describe(device)}"


def describe(device: torch.device) -> str:
    """Name the machine in a few words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads, {torch.backends.cpu.get_cpu_capability()}"


def train_all(
    head: Head, impl: str, arguments: argparse.Namespace, device: torch.device
) -> dict[str, Training]:
    """Train with an implementation of the loss and with the reference, from the same seed.

    Masks at one half, which the Hausdorff loss needs, turn a difference in rounding into one of
    whole voxels. With it the reference is trained once more, from weights that differ by rounding:
    that shows how far two trainings with one and the same loss drift apart.
    """
    x, y, z = arguments.patch
    recipe = Recipe(
        steps=arguments.steps,
        patch=(x, y, z),
        batch=arguments.batch,
        rate=arguments.rate,
        seed=arguments.seed,
        device=device,
    )
    runs = {OURS: (impl, recipe), REFERENCE: ("reference", recipe)}
    if arguments.loss == "dice_ce_hausdorff":
        nudged = replace(recipe, nudge=2 * torch.finfo(torch.float32).eps)
        runs[f"{REFERENCE}, nudged"] = ("reference", nudged)
    trainings = {}
    for title, (name, this) in runs.items():
        loss = make_loss(arguments.loss, name, head.resolution)
        trainings[title] = train(head, loss, this, f"training, {name}")
    for title, (name, _) in runs.items():
        print_share(title, name, trainings[title])
    print(
        "A faster loss shortens a step by the loss's own part of it, and by nothing else. That "
        "part grows\nwith the size of the patch and the number of classes; below, one large step."
    )
    return trainings


def main() -> int:
    """Run the demo and return its exit status."""
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.deterministic = True
    device = torch.device(arguments.device)
    impl = auto_impl(device)
    print(
        f"segloss_fast {segloss_fast.__version__}, MONAI {monai.__version__}, "
        f"torch {torch.__version__}, {describe(device)}"
    )
    if impl == "reference":
        print('No kernel runs here (python -m segloss_fast says why): "auto" is the reference.')
    head = load_head(arguments.resolution)
    sides = "x".join(map(str, head.image.shape))
    print(
        f"MNI152 head, a population average and no patient: {sides} voxels of {head.resolution} mm"
    )
    trainings = train_all(head, impl, arguments, device)
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    image = corrupt(head.image, head.resolution, generator)
    labellings = label_all(head, image, trainings, device)
    truth = head.labels[:, :, head.slab]
    scores = {name: dice_per_class(labels, truth) for name, labels in labellings.items()}
    errors = {
        name: error_per_class(labels, truth, len(CLASSES), head.resolution)
        for name, labels in labellings.items()
    }
    print_scores(scores, errors, head)
    ours, reference = trainings[OURS], trainings[REFERENCE]
    costs, measured = compare_costs(head, ours.network, impl, device, arguments.repeats)
    print_costs(costs, measured)

    arguments.output.mkdir(parents=True, exist_ok=True)
    pictures = {
        "label": truth,
        "network": labellings[OURS],
        "thresholds": labellings["thresholds"],
    }
    plot_slices(head, image[:, :, head.slab], pictures, arguments.output / "slices.png")
    plot_losses(ours.losses, reference.losses, impl, arguments.output / "loss.png")
    plot_costs(costs, measured, arguments.output / "step.png")
    print(f"\nPictures: {arguments.output}/slices.png, loss.png, step.png\n")
    return 0 if print_checks(check(scores, ours, reference)) else 1


if __name__ == "__main__":
    sys.exit(main())
