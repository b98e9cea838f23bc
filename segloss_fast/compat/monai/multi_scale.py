"""MONAI's MultiScaleLoss: the mean of any loss over smoothings of input and target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from segloss_fast.compat._volumes import plain
from segloss_fast.compat.monai._bands import convolved
from segloss_fast.compat.monai._base import check_reduction, reduce
from segloss_fast.compat.monai._names import original_module
from segloss_fast.compat.monai._script import Scriptable


def make_gaussian_kernel(sigma: float) -> Tensor:
    """Return samples of a Gaussian of this deviation, up to three of them, float32."""
    if sigma <= 0:
        raise ValueError(f"scales must not be negative, got {sigma}")
    tail = int(max(3 * float(sigma), 0.5) + 0.5)
    x = torch.arange(-tail, tail + 1, dtype=torch.float32)
    return torch.exp(-0.5 / float(sigma) ** 2 * x**2) / (math.sqrt(2 * math.pi) * float(sigma))


def make_cauchy_kernel(sigma: float) -> Tensor:
    """Return samples of a Cauchy distribution, up to five of its widths, normalised, float32."""
    if sigma <= 0:
        raise ValueError(f"scales must not be negative, got {sigma}")
    tail = int(5 * sigma)
    found = 1 / ((torch.arange(-tail, tail + 1, dtype=torch.float32) / float(sigma)) ** 2 + 1)
    return found / found.sum()


kernel_fn_dict = {"gaussian": make_gaussian_kernel, "cauchy": make_cauchy_kernel}


class MultiScaleLoss(Scriptable, _Loss):
    """MONAI's MultiScaleLoss, with its arguments.

    >>> from segloss_fast.compat.monai import DiceLoss, MultiScaleLoss
    >>> loss = MultiScaleLoss(DiceLoss(), scales=[0, 1])
    >>> loss(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4))
    tensor(0.1511)

    The mean over the scales of ``loss(smooth(y_pred), smooth(y_true))``.

    Args:
        loss: Any loss of an input and a target.
        scales: Deviations of the kernel, in voxels; 0 does not smooth. Without scales the loss is
            called as it is.
        kernel: ``"gaussian"`` or ``"cauchy"``.
        reduction: ``"mean"`` or ``"sum"`` over the scales and what the loss returns, or ``"none"``.

    Raises:
        ValueError: If the kernel or the reduction is unknown.
    """

    loss: Callable[[Tensor, Tensor], Tensor]

    def __init__(
        self,
        loss: Callable[[Tensor, Tensor], Tensor],
        scales: Sequence[float] | None = None,
        kernel: str = "gaussian",
        reduction: Any = "mean",  # noqa: ANN401
    ) -> None:
        super().__init__(reduction=check_reduction(reduction))
        if kernel not in kernel_fn_dict:
            raise ValueError(f"kernel must be one of {list(kernel_fn_dict)}, got {kernel!r}")
        self.kernel_fn = kernel_fn_dict[kernel]
        self.loss = loss
        self.scales = scales

    def forward(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the loss; the target comes first.

        Args:
            y_true: ``[B, C, *S]``.
            y_pred: The same.
        """
        if isinstance(self.loss, Scriptable):  # which take a plain tensor, cheap to smooth
            y_true, y_pred = plain(y_true), plain(y_pred)
        if self.scales is None:
            return reduce(self.loss(y_pred, y_true), self.reduction)
        found = []
        for scale in self.scales:
            both = y_pred, y_true
            if scale != 0:
                kernel = self.kernel_fn(scale).to(y_pred)
                both = _smooth(y_pred, kernel), _smooth(y_true, kernel)
            found.append(self.loss(*both))
        return reduce(torch.stack(found), self.reduction)

    def __prepare_scriptable__(self) -> Any:  # noqa: ANN401
        twin = super().__prepare_scriptable__()
        for name, kernel_fn in kernel_fn_dict.items():
            if twin.kernel_fn is kernel_fn and not isinstance(twin, MultiScaleLoss):
                twin.kernel_fn = original_module("MultiScaleLoss").kernel_fn_dict[name]
        return twin


def _smooth(x: Tensor, kernel: Tensor) -> Tensor:
    """Return a convolution along each side, with zeros around; integers get integer kernels."""
    kernel = kernel.to(x)
    for axis in range(2, x.dim()):
        x = convolved(x, axis, kernel)
    return x
