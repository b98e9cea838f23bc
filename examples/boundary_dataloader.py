"""Compute the fields of boundary losses in the workers of a DataLoader, and train with them.

The target does not change from epoch to epoch, nor does its distance field: workers compute it
beside the images, and a loss that gets it as ``target_field`` has only the prediction's left to do
(Hausdorff), or none (boundary loss). Trains a small 2-D network on synthetic discs for some
seconds, and checks that the loss with the field is the loss without it.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import segloss_fast

CLASSES = 3  # background, disc, its core
SIDE = 64
SPACING = (0.8, 1.2)  # of the pixels, in mm
LAMBDA_BOUNDARY = 0.05


class Discs(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Noisy images of a disc with a core.

    An item is an image ``[1, H, W]`` float32, class indices ``[H, W]`` uint8 and the field of the
    boundary loss ``[C, H, W]`` float32, in mm.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(index)
        x, y, radius = (torch.rand(3, generator=generator) * SIDE / 4).tolist()
        place = torch.arange(SIDE)
        square = (place[:, None] - SIDE / 3 - x) ** 2 + (place - SIDE / 3 - y) ** 2
        labels = (square < (5 + radius) ** 2).to(torch.uint8)
        labels += square < (2 + radius / 2) ** 2
        noise = torch.randn(1, SIDE, SIDE, generator=generator)
        # Workers have one thread each: the loader's are many.
        field = segloss_fast.boundary_field(labels, CLASSES, spacing=SPACING, batched=False)
        return labels[None] + 0.5 * noise, labels, field


def network() -> nn.Module:
    """Return a network of three convolutions."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, CLASSES, 1),
    )


def train(count: int, epochs: int, workers: int) -> list[float]:
    """Train, and return the mean loss of every epoch.

    Args:
        count: Number of images.
        epochs: Passes over them.
        workers: Processes that make them; 0 makes them here.
    """
    torch.manual_seed(0)
    loader = DataLoader(
        Discs(count), batch_size=8, num_workers=workers, persistent_workers=workers > 0
    )
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    region = segloss_fast.DiceCELoss()
    boundary = segloss_fast.BoundaryLoss(include_background=False, spacing=SPACING)
    means = []
    for _ in range(epochs):
        losses = []
        for image, labels, field in loader:
            logits = model(image)
            loss = region(logits, labels)
            loss = loss + LAMBDA_BOUNDARY * boundary(logits, labels, target_field=field)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        means.append(sum(losses) / len(losses))
    check(boundary, logits.detach(), labels, field)
    return means


def check(boundary: nn.Module, logits: Tensor, labels: Tensor, field: Tensor) -> None:
    """Raise unless the loss with the loader's field is the one that computes it itself."""
    torch.testing.assert_close(
        boundary(logits, labels, target_field=field), boundary(logits, labels)
    )


def main() -> None:
    """Train as the command line says, and print the losses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    for epoch, loss in enumerate(train(options.images, options.epochs, options.workers)):
        print(f"epoch {epoch}: DiceCE + {LAMBDA_BOUNDARY} boundary loss {loss:.4f}")


if __name__ == "__main__":
    main()
