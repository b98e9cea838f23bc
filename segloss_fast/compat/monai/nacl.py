"""MONAI's neighbour-aware calibration loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.loss import _Loss

from segloss_fast._check import widen
from segloss_fast.compat._volumes import plain
from segloss_fast.compat.monai._bands import convolved
from segloss_fast.compat.monai._script import Scriptable
from segloss_fast.ops.region_masks import target_masks
from segloss_fast.ops.region_sums import region_sums

CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
DISTANCES = {"l1": "abs_err", "l2": "sq_err"}


class MeanFilter(nn.Module):
    """Means over a cube around each voxel, with zeros outside.

    Attributes:
        filter: The weights, one per voxel of the cube.
    """

    _made: Tensor | None = None

    def __init__(self, spatial_dims: int, size: int) -> None:
        super().__init__()
        self.filter = torch.ones([size] * spatial_dims) / size**spatial_dims
        self._made = self.filter

    def forward(self, x: Tensor) -> Tensor:
        """Return the means of each item and class of ``[B, C, *S]``; of masks float32."""
        made = self._made
        if x.dtype == torch.bool and made is not None and made is self.filter:
            return _counts(x, made.shape[0]) * (1.0 / made.numel())
        x = x.to(torch.float32) if x.dtype == torch.bool else x
        classes = x.shape[1]
        kernel = self.filter.to(x).expand(classes, 1, *self.filter.shape)
        return CONVOLUTIONS[x.dim() - 3](x, kernel, padding="same", groups=classes)


def _counts(mask: Tensor, size: int) -> Tensor:
    """Return how many voxels of a mask are in the cube around each voxel: bytes, if that fits."""
    before = (size - 1) // 2
    x = mask.view(torch.uint8)
    x = x if size ** (x.dim() - 2) < 256 else x.to(torch.int32)
    for axis in range(2, x.dim()):
        length, total = x.shape[axis], x.clone()
        for offset in range(-before, size - before):
            kept = length - abs(offset)
            if offset and kept > 0:
                into = total.narrow(axis, max(-offset, 0), kept)
                into.add_(x.narrow(axis, max(offset, 0), kept))
        x = total
    return x


class GaussianFilter(nn.Module):
    """Means weighed by a Gaussian that is cut at four standard deviations, with zeros outside.

    Attributes:
        sigma: The standard deviation along each axis, parameters without a gradient.
    """

    _known: tuple[list[float], list[list[float]]] = ([], [])

    def __init__(self, spatial_dims: int, sigma: float | Sequence[float] | Tensor) -> None:
        super().__init__()
        sigmas = torch.as_tensor(sigma, dtype=torch.float32)
        if sigmas.dim() and sigmas.shape[0] != spatial_dims:
            raise ValueError(
                f"sigma must be one number, or one for each of {spatial_dims} axes, "
                f"got {sigmas.shape[0]} numbers"
            )
        self.sigma = [
            nn.Parameter(each.clone(), requires_grad=False) for each in sigmas.expand(spatial_dims)
        ]
        self.truncated = 4.0
        self.approx = "erf"
        for axis, parameter in enumerate(self.sigma):
            self.register_parameter(f"kernel_sigma_{axis}", parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Return the means of each item and class of ``[B, C, *S]``; of masks float32."""
        x = x.to(torch.float32) if x.dtype == torch.bool else x
        for axis, weights in enumerate(self._weights(), 2):
            kernel = torch.tensor(weights, dtype=x.dtype).to(x.device, non_blocking=True)
            x = convolved(x, axis, kernel)
        return x

    def _weights(self) -> list[list[float]]:
        """Return the weights along each axis, of values that lie on a GPU read once."""
        key = [s._version if s.is_cuda else float(s) for s in self.sigma]
        if self._known[0] != key:
            self._known = key, [_gaussian(float(s), self.truncated) for s in self.sigma]
        return self._known[1]


def _gaussian(sigma: float, truncated: float) -> list[float]:
    """Return the integrals of a normal distribution over the voxels around its centre."""
    tail = int(max(sigma * truncated, 0.5) + 0.5)
    scale = math.sqrt(0.5) / abs(sigma) if sigma else math.inf

    def below(x: float) -> float:
        return 0.5 * math.erf(scale * x)

    return [max(below(x + 0.5) - below(x - 0.5), 0.0) for x in range(-tail, tail + 1)]


class NACLLoss(Scriptable, _Loss):
    """MONAI's NACLLoss, neighbour-aware calibration, with its arguments.

    >>> loss = segloss_fast.compat.monai.NACLLoss(classes=2, dim=2)
    >>> loss(torch.zeros(1, 2, 4, 4), torch.eye(4, dtype=torch.int64)[None])
    tensor(0.7279)

    Cross-entropy, plus ``alpha`` times the mean over voxels and classes of ``|u - x|``, or of its
    square, with x the logits and u the share of each class among the voxels around, those outside
    of the image of no class. Source: Murugesan et al. 2023, https://arxiv.org/abs/2303.06268.

    Args:
        classes: Number of classes.
        dim: Number of spatial dimensions, 2 or 3.
        kernel_size: Side of the cube of voxels around, of ``"mean"``.
        kernel_ops: ``"mean"``, or ``"gaussian"`` for a weighted mean.
        distance_type: ``"l1"`` or ``"l2"``.
        alpha: Weight of the second term.
        sigma: Standard deviation of ``"gaussian"``, in voxels: one number, or one per axis.

    Raises:
        ValueError: If ``dim`` is neither 2 nor 3, or an option is unknown.
    """

    def __init__(
        self,
        classes: int,
        dim: int,
        kernel_size: int = 3,
        kernel_ops: str = "mean",
        distance_type: str = "l1",
        alpha: float = 0.1,
        sigma: float = 1.0,
    ) -> None:
        super().__init__()
        if kernel_ops not in ("mean", "gaussian"):
            raise ValueError(f"kernel_ops must be 'mean' or 'gaussian', got {kernel_ops!r}")
        if dim not in (2, 3):
            raise ValueError(f"dim must be 2 or 3, got {dim}")
        if distance_type not in DISTANCES:
            raise ValueError(f"distance_type must be 'l1' or 'l2', got {distance_type!r}")
        self.nc = classes
        self.dim = dim
        self.cross_entropy = nn.CrossEntropyLoss()
        self.distance_type = distance_type
        self.alpha = alpha
        self.ks = kernel_size
        self.svls_layer: nn.Module
        if kernel_ops == "mean":
            self.svls_layer = MeanFilter(dim, kernel_size)
        else:
            self.svls_layer = GaussianFilter(dim, sigma)

    def get_constr_target(self, mask: Tensor) -> Tensor:
        """Return the share of each class around each voxel, float32 ``[B, C, *S]``.

        Args:
            mask: Class indices ``[B, *S]``.
        """
        hot = (mask == 0)[:, None] if self.nc == 1 else target_masks(mask, self.nc, dense=False)
        layer = self.svls_layer
        ours = isinstance(layer, (MeanFilter, GaussianFilter))
        shares: Tensor = layer(hot if ours else hot.to(torch.float32))
        return shares

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of logits ``[B, C, *S]`` against class indices ``[B, *S]``.

        Raises:
            RuntimeError: If the shapes of both do not fit each other, ``classes`` and ``dim``.
            ValueError: If they have different numbers of items, or on the CPU if a label is out
                of range.
        """
        inputs, targets = plain(inputs), plain(targets)
        _check_shapes(inputs, targets, self.nc, self.dim)
        loss = self._cross_entropy(inputs, targets)
        loss = loss + self.alpha * self._penalty(inputs, self.get_constr_target(targets))
        return loss.to(torch.promote_types(inputs.dtype, torch.float32))

    def _cross_entropy(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy, by torch's module if its options were changed."""
        own = self.cross_entropy
        mine = type(own) is nn.CrossEntropyLoss and own.weight is None
        if mine and own.reduction == "mean" and not own.label_smoothing and self.nc > 1:
            return region_sums(inputs, targets, terms=("nll",)).rows.sum() / float(targets.numel())
        found: Tensor = own(widen(inputs) if mine else inputs, targets)
        return found

    def _penalty(self, inputs: Tensor, shares: Tensor) -> Tensor:
        """Return the mean distance of logits from the shares of classes."""
        if self.nc == 1:  # whose values region_sums wants in [0, 1], without rounding
            difference = shares - inputs
            return (difference.abs() if self.distance_type == "l1" else difference**2).mean()
        term = DISTANCES[self.distance_type]
        sums = region_sums(inputs, shares, activation="probabilities", terms=(term,))
        return sums.rows.sum() / float(inputs.numel())


def _check_shapes(inputs: Tensor, targets: Tensor, classes: int, axes: int) -> None:
    """Raise RuntimeError, or ValueError for the number of items, as torch's cross-entropy."""
    shape, labels = list(inputs.shape), list(targets.shape)
    if len(shape) != axes + 2 or shape[1] != classes:
        sides = ", ".join("HWD"[:axes])
        raise RuntimeError(f"inputs must be [B, {classes}, {sides}], got shape {shape}")
    expected = [shape[0], *shape[2:]]
    if labels == expected:
        return
    kind = ValueError if labels[1:] == expected[1:] else RuntimeError
    raise kind(f"targets must be class indices {expected} for inputs {shape}, got shape {labels}")
