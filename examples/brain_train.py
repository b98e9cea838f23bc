"""Training of the demo's network, and its prediction on a whole head."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from examples.brain_data import CLASSES, Head, sample_batch
from examples.unet3d import UNet3d

CONTEXT = 16  # slices on each side of a slab that a network sees when it labels the slab

Loss = Callable[[Tensor, Tensor], Tensor]
# Draws images and labels of a step.
Batches = Callable[[torch.Generator], tuple[Tensor, Tensor]]
# Called after every step with its number, the seconds of training so far (without those spent in
# it), and the network with the moving average of its weights.
Observer = Callable[[int, float, UNet3d], None]

# Of the moving average of the weights, per step. Two trainings that differ by rounding end in
# different networks; the averages are better than those, and closer to each other.
DECAY = 0.98


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        steps: Number of optimiser steps.
        patch: Sides of a patch in voxels.
        batch: Patches per step.
        rate: Largest learning rate.
        seed: Seed of the weights and of the data.
        device: Where to train.
        nudge: Relative change of the initial weights: one of rounding size shows how far two
            trainings drift apart that differ by nothing else.
        width: Channels of the network at full resolution.
    """

    steps: int
    patch: tuple[int, int, int]
    batch: int
    rate: float
    seed: int
    device: torch.device
    nudge: float = 0.0
    width: int = 16


@dataclass(frozen=True)
class Training:
    """What came out of a training.

    Attributes:
        network: The network with the moving average of its weights, in evaluation mode.
        losses: The loss of every step.
        seconds: How long it took.
        loss_seconds: The part of it that the loss took, forward and backward, without the network.
    """

    network: UNet3d
    losses: list[float]
    seconds: float
    loss_seconds: float


def train(
    head: Head, loss: Loss, recipe: Recipe, title: str, observe: Observer | None = None
) -> Training:
    """Train a network from scratch; with one recipe, weights and data are the same for every loss.

    Args:
        head: The data.
        loss: Called with logits ``[B, C, *patch]`` and labels ``[B, 1, *patch]``.
        recipe: How to train.
        title: Name in the progress bar.
        observe: Looks on.
    """

    def batches(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return sample_batch(head, recipe.patch, recipe.batch, generator)

    return fit(batches, len(CLASSES), loss, recipe, title, observe)


def fit(
    batches: Batches,
    classes: int,
    loss: Loss,
    recipe: Recipe,
    title: str,
    observe: Observer | None = None,
) -> Training:
    """Train a network from scratch on batches of any kind.

    Args:
        batches: Draws images ``[B, 1, *patch]`` and labels ``[B, 1, *patch]``.
        classes: How many the labels have.
        loss: As for :func:`train`, and so on.
        recipe: How to train.
        title: Name in the progress bar.
        observe: Looks on.
    """
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    network = UNet3d(1, classes, recipe.width).to(recipe.device)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + recipe.nudge)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=recipe.steps)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    assert isinstance(averaged.module, UNet3d)
    averaged.module.eval()
    losses, loss_seconds = [], 0.0
    start = time.perf_counter()
    with tqdm(range(recipe.steps), desc=title, unit="step", disable=None) as progress:
        for step in progress:
            images, labels = batches(generator)
            logits = network(images.to(recipe.device))
            value, grad, seconds = timed(loss, logits.detach(), labels.to(recipe.device))
            loss_seconds += seconds
            optimizer.zero_grad()
            logits.backward(grad)
            optimizer.step()
            schedule.step()
            averaged.update_parameters(network)
            losses.append(value.item())
            progress.set_postfix(loss=f"{losses[-1]:.3f}")
            if observe is not None:
                pause = time.perf_counter()
                observe(step + 1, pause - start, averaged.module)
                start += time.perf_counter() - pause
    return Training(averaged.module, losses, time.perf_counter() - start, loss_seconds)


def timed(loss: Loss, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return the loss, its gradient, and the seconds that both took on their own."""
    logits.requires_grad_()
    wait(logits.device)
    start = time.perf_counter()
    value = loss(logits, labels)
    (grad,) = torch.autograd.grad(value, logits)
    wait(logits.device)
    return value.detach(), grad, time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Wait for what a GPU still computes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def predict(network: UNet3d, image: Tensor, device: torch.device) -> Tensor:
    """Return the logits of an image, ``[1, C, X, Y, Z]`` on the device.

    Args:
        network: The trained network.
        image: ``[X, Y, Z]`` float32 of any size.
        device: Where the network is.
    """
    padding = [(0, -side % network.stride) for side in reversed(image.shape)]
    padded = F.pad(image, [side for pair in padding for side in pair])
    logits: Tensor = network(padded[None, None].to(device))
    x, y, z = image.shape
    return logits[:, :, :x, :y, :z]


def label_slab(network: UNet3d, image: Tensor, slab: slice, device: torch.device) -> Tensor:
    """Return the class indices ``[X, Y, slab]`` of some axial slices.

    Args:
        network: The trained network.
        image: The whole head, ``[X, Y, Z]``.
        slab: The slices.
        device: Where the network is.
    """
    first = max(0, slab.start - CONTEXT)
    logits = predict(network, image[:, :, first : slab.stop + CONTEXT], device)
    return logits[0].argmax(dim=0).cpu()[:, :, slab.start - first : slab.stop - first]
