"""How the tests train with nnU-Net, in its environment: its trainers, and losses beside theirs."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

NAME = "nnUNetTrainerSegLossFast"
OTHERS = (
    *("Hausdorff", "Boundary", "Lovasz", "ClDice", "TopK", "Focal", "Tversky"),
    *("Blob", "Component", "Bidirectional", "ComponentTversky"),
)


def trainer_of(name: str, *, iterations: int, fold: int = 0) -> Any:  # noqa: ANN401
    """Return a trainer that nnU-Net finds by its name, ready to begin, the same each time."""
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from nnunetv2.run.run_training import get_trainer_from_args

    original = GaussianBlurTransform.__init__
    if not hasattr(GaussianBlurTransform, "original"):
        GaussianBlurTransform.original = original

        def without_benchmark(self: Any, *args: Any, **options: Any) -> None:  # noqa: ANN401
            original(self, *args, **{**options, "benchmark": False})

        GaussianBlurTransform.__init__ = without_benchmark
    trainer = get_trainer_from_args("1", "3d_fullres", fold, name, device=torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch = 1, iterations
    trainer.num_val_iterations_per_epoch = 1
    seed()
    trainer.initialize()
    seed()
    return trainer


def seed() -> None:
    """Begin all random numbers again."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def train(trainer: Any) -> list[float]:  # noqa: ANN401
    """Train, and return the loss of each iteration."""
    losses: list[float] = []
    step = trainer.train_step

    def recorded(batch: dict[str, Any]) -> Any:  # noqa: ANN401
        found = step(batch)
        losses.append(float(found["loss"]))
        return found

    trainer.train_step = recorded
    trainer.run_training()
    return losses


class Both(torch.nn.Module):
    """nnU-Net's loss, which trains, compared with another one at every step."""

    def __init__(self, stock: torch.nn.Module, ours: torch.nn.Module) -> None:
        super().__init__()
        self.stock, self.ours = stock, ours
        self.steps: list[tuple[float, float]] = []

    def forward(self, outputs: list[torch.Tensor], targets: list[torch.Tensor]) -> torch.Tensor:
        """Return nnU-Net's loss; note how far apart both are, value and gradients."""
        found = []
        with torch.enable_grad():
            for loss in (self.stock, self.ours):
                leaves = [x.detach().requires_grad_() for x in outputs]
                value = loss(leaves, targets)
                value.backward()
                found.append((value.item(), [x.grad for x in leaves]))
        (a, grads), (b, others) = found
        apart = 0.0
        for x, y in zip(grads, others, strict=True):
            if x is not None and y is not None:
                apart = max(apart, float((x - y).norm() / x.norm().clamp_min(1e-12)))
            else:
                assert x is None
                assert y is None
        self.steps.append((abs(a - b), apart))
        result: torch.Tensor = self.stock(outputs, targets)
        return result


def loss_of(trainer: Any, batch: dict[str, Any]) -> float:  # noqa: ANN401
    """Return the loss of a batch."""
    with torch.no_grad():
        return float(trainer.loss(trainer.network(batch["data"]), batch["target"]))


def hausdorff(x: torch.Tensor, target: torch.Tensor, spacing: np.ndarray) -> float:
    """Return the Hausdorff loss of both foreground classes, with scipy's distances.

    Voxels with the label 3 do not count, and are outside of the masks.
    """
    from scipy.ndimage import distance_transform_edt

    probabilities, labels = torch.softmax(x.double(), 1).numpy(), target.numpy()[:, 0]
    counted = labels != 3
    total = []
    for item in range(len(labels)):
        for c in (1, 2):
            p, t = probabilities[item, c], labels[item] == c
            squares = np.zeros(t.shape)
            for mask in ((p > 0.5) & counted[item], t):
                if mask.any() and not mask.all():
                    squares += distance_transform_edt(mask, spacing) ** 2
                    squares += distance_transform_edt(~mask, spacing) ** 2
            total.append(((p - t) ** 2 * squares)[counted[item]].mean())
    return float(np.mean(total))


def hausdorff_of_levels(trainer: Any, outputs: Any, targets: Any) -> float:  # noqa: ANN401
    """Return the Hausdorff loss of all levels, with scipy's distances in millimetres."""
    spacing = np.array(trainer.configuration_manager.spacing)
    sizes = [np.array(x.shape[2:]) for x in outputs]
    values = [
        hausdorff(x, t, spacing * sizes[0] / size)
        for x, t, size in zip(outputs, targets, sizes, strict=True)
    ]
    weights = level_weights(len(values))
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


def level_weights(levels: int) -> list[float]:
    """Return nnU-Net's weights of the levels, the smallest of which does not count."""
    weights = [0.5**level for level in range(levels - 1)]
    return [*(weight / sum(weights) for weight in weights), 0.0]
