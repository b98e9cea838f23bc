"""A small plain 3-D U-Net: three resolutions, two convolutions each, skip connections."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build two convolutions, each followed by instance normalisation and ReLU."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        # Without a bias: the normalisation would subtract it again.
        layers.append(nn.Conv3d(channels, out_channels, kernel_size=3, padding=1, bias=False))
        layers.append(nn.InstanceNorm3d(out_channels, affine=True))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class UNet3d(nn.Module):
    """A 3-D U-Net (Cicek 2016, https://arxiv.org/abs/1606.06650) small enough to train on a CPU.

    Resolution is halved by strided convolutions and doubled by transposed ones. Unlike max pooling
    and interpolation these have deterministic gradients on a GPU as well, so that two trainings can
    be compared step by step.

    Args:
        in_channels: Channels of the image.
        classes: Number of labels, and of logits per voxel.
        width: Channels at full resolution; doubled at each lower one.
        depth: How many times the resolution is halved.
    """

    def __init__(self, in_channels: int, classes: int, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.stride = 2**depth
        self.encode = nn.ModuleList([_block(in_channels, width)])
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        self.decode = nn.ModuleList()
        for fine, coarse in pairwise(widths):
            self.down.append(nn.Conv3d(fine, coarse, kernel_size=2, stride=2))
            self.encode.append(_block(coarse, coarse))
            self.up.append(nn.ConvTranspose3d(coarse, fine, kernel_size=2, stride=2))
            self.decode.append(_block(2 * fine, fine))
        self.head = nn.Conv3d(width, classes, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of every voxel.

        Args:
            image: ``[B, in_channels, X, Y, Z]`` float32; X, Y and Z divisible by ``stride``.

        Returns:
            ``[B, classes, X, Y, Z]`` float32.

        Raises:
            ValueError: If a side of the image is not divisible by ``stride``.
        """
        if any(side % self.stride for side in image.shape[2:]):
            raise ValueError(
                f"the sides of image must be multiples of {self.stride}, got {list(image.shape)}"
            )
        x = self.encode[0](image)
        skips: list[Tensor] = []
        for down, encode in zip(self.down, self.encode[1:], strict=True):
            skips.append(x)
            x = encode(down(x))
        for up, decode in zip(reversed(self.up), reversed(self.decode), strict=True):
            x = decode(torch.cat([skips.pop(), up(x)], dim=1))
        logits: Tensor = self.head(x)
        return logits
