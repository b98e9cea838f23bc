"""Random problems on a device, and how far results are from those of the definition in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segloss_fast import backends

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Problem:
    """Logits ``[batch, classes, *size]`` and labels."""

    classes: int
    size: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    labels: torch.dtype = torch.uint8
    channels_last: bool = False
    batch: int = 2

    def __str__(self) -> str:
        size = "x".join(map(str, self.size))
        layout = " channels last" if self.channels_last else ""
        return f"C={self.classes} {self.batch}x{size} {str(self.dtype)[6:]}{layout}"

    def tensors(self, device: str) -> tuple[Tensor, Tensor]:
        """Return input and target."""
        source = torch.Generator(device).manual_seed(0)
        shape = (self.batch, self.classes, *self.size)
        x = 3 * torch.randn(shape, generator=source, device=device)
        most = max(self.classes, 2)
        y = torch.randint(most, (self.batch, *self.size), generator=source, device=device)
        x = x.to(self.dtype)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last_3d)
        return x, y.to(self.labels)


def kernels_of(primitive: str, device: str) -> list[str]:
    """Return the kernels of a primitive that run on this device."""
    return [
        backend.impl
        for backend in backends()
        if backend.primitive == primitive
        and backend.device == device
        and backend.available
        and backend.impl in ("native", "triton")
    ]


def graded(loss: Loss, x: Tensor, y: Tensor, **options: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return value and gradient; the latter of a thousand times the value, for half precision."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = loss(x, y, **options)
    (grad,) = torch.autograd.grad(1000 * value, x)
    return value.detach(), grad


def distance(ours: Tensor, true: Tensor) -> float:
    """Return the relative error in L2; NaN where one is."""
    difference = (ours.double() - true.double()).norm()
    return float(difference / true.double().norm().clamp_min(1e-300))


def judged(error: float, budget: float, **more: float) -> dict[str, Any]:
    """Return an entry of the journal: good where the error is within its budget."""
    return {"ok": error <= budget, "error": error, "budget": budget, **more}
