"""Maps for the tests of soft_skeleton, and what the definition says of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segloss_fast.ops.soft_skeleton import soft_skeleton
from tests.machines import Machine
from tests.ops.region_masks_cases import unwritten

FAR = 2**31 + 5
KINDS = ["random", "quarters", "binary", "saturated", "sparse", "constant"]


def values(kind: str, shape: Sequence[int], dtype: torch.dtype = torch.float64) -> Tensor:
    """Return a map; all kinds but the first are full of equal values."""
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    x = torch.rand(tuple(shape), dtype=dtype, generator=generator)
    if kind == "quarters":
        return (4 * x).round() / 4
    if kind == "binary":
        return (x > 0.4).to(dtype)
    if kind == "saturated":
        return torch.sigmoid(90 * (x - 0.5))
    if kind == "sparse":
        return x * (torch.rand(tuple(shape), generator=generator) > 0.7)
    return torch.full_like(x, 0.5) if kind == "constant" else x


def weights(x: Tensor) -> Tensor:
    """Return a gradient of the skeletons."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(x.shape, dtype=x.dtype, generator=generator).to(x.device)


def solve(
    x: Tensor, iterations: int, impl: str, first: int = 0, grad: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the skeletons, and the gradient of a random weighted sum of them."""
    x = x.detach().requires_grad_()
    found = soft_skeleton(x, iterations, first=first, impl=impl)
    found.backward(weights(x) if grad is None else grad)
    assert x.grad is not None
    return found.detach(), x.grad


def run(
    machine: Machine, x: Tensor, iterations: int, first: int = 0, grad: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the skeletons, and the gradient of a weighted sum, by a machine, on the CPU."""
    x, grad = machine.place(x), machine.place(weights(x) if grad is None else grad)
    if machine.impl == "reference":
        return solve(x, iterations, machine.impl, first, grad)
    found: Tensor = machine.step()(x, iterations, first)
    gradient: Tensor = machine.step("backward")(grad, x, iterations, first)
    assert found.device.type == machine.device
    return found.cpu(), gradient.cpu()


def check(
    found: tuple[Tensor, Tensor],
    x: Tensor,
    iterations: int,
    first: int = 0,
    impl: str = "reference",
) -> None:
    """Compare skeletons and gradient with the definition's, or another implementation's.

    Skeletons are equal: minima and maxima round nothing, and all round the rest alike. Gradients
    are sums of some 40 parts a level, added up in different orders.
    """
    x = x.detach().cpu()
    true, true_grad = solve(x, iterations, impl, first)
    note = f"{list(x.shape)} {x.dtype} {x.stride()} k={iterations} from {first}"
    assert torch.equal(found[0].cpu(), true), note
    bound = 8 * (iterations + 2) * torch.finfo(x.dtype).eps * max(1.0, true_grad.abs().max().item())
    difference = (found[1].cpu() - true_grad).abs().max().item()
    assert difference <= bound, f"{note}: {difference:.3g} > {bound:.3g}"


def exact(x: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Return a map of few binary digits, and a gradient of such, of which nothing is rounded.

    Then gradients have no order of addition: they are equal where ties are broken alike.
    """
    assert iterations <= 4
    generator = torch.Generator().manual_seed(2)
    grad = torch.randint(-8, 9, x.shape, generator=generator)
    return (4 * x.double()).round() / 4, grad.double()


def far_apart(x: Tensor, strides: Sequence[int]) -> Tensor:
    """Return a map with these strides, over memory of which only what is used exists."""
    room = 1 + sum((n - 1) * s for n, s in zip(x.shape, strides, strict=True))
    return unwritten(room, x.dtype).as_strided(x.shape, tuple(strides)).copy_(x)
