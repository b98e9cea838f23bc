"""The CUDA kernels of region_sums as operators on the CPU: built against tests/cuda_shim."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from segloss_fast.ops._voxels.maps import ACTIVATIONS
from segloss_fast.ops.region_sums import reference
from segloss_fast.ops.region_sums.options import TERMS, Options
from tests.cuda_shim.operators import CSRC, build_operators
from tests.helpers import relative_l2, relative_max

SOURCES = sorted((CSRC / "region_sums/cuda").glob("*.cu"))
LIBRARY = "segloss_fast_shim"


def build_library(
    output: Path,
    *,
    sanitize: bool = False,
    sources: Sequence[Path] = SOURCES,
    library: str = LIBRARY,
) -> Path:
    """Compile the CUDA sources into a library of operators for CPU tensors."""
    return build_operators(sources, output, library, sanitize=sanitize)


def options_of(
    terms: Sequence[str] = TERMS,
    activation: str = "softmax",
    ce_activation: str | None = None,
    gamma: float = 2.0,
    ignore_index: int | None = None,
) -> Options:
    return Options(tuple(terms), activation, ce_activation or activation, gamma, ignore_index)


def codes(options: Options) -> tuple[list[int], int, int, float, int | None]:
    """Return the options as the operators take them."""
    return (
        [TERMS.index(name) for name in options.terms],
        ACTIVATIONS.index(options.activation),
        ACTIVATIONS.index(options.ce_activation),
        options.gamma,
        options.ignore_index,
    )


def forward(
    inputs: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[Tensor], options: Options
) -> tuple[Tensor, Tensor]:
    """Return the rows ``[K, sum of B, C]`` and the invalid labels ``[2]``."""
    result: tuple[Tensor, Tensor] = torch.ops.segloss_fast_shim._region_sums(
        list(inputs), list(targets), list(weights), *codes(options)
    )
    return result


def backward(
    grad_rows: Tensor,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    weights: Sequence[Tensor],
    options: Options,
) -> list[Tensor]:
    result: list[Tensor] = torch.ops.segloss_fast_shim._region_sums_backward(
        grad_rows, list(inputs), list(targets), list(weights), *codes(options)
    )
    return result


def factors(rows: Tensor) -> Tensor:
    """Return gradients of the rows, all different."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(rows.shape, generator=generator, dtype=torch.float64)


def kernel(
    x: Tensor, target: Tensor, weight: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    """Return the rows, and the gradient of a random combination of them."""
    weights = [] if weight is None else [weight]
    rows, _ = forward([x], [target], weights, options)
    (grad,) = backward(factors(rows), [x], [target], weights, options)
    return rows, grad


def truth(
    x: Tensor, target: Tensor, weight: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    """Return the same by the reference in float64."""
    exact = x.detach().double().requires_grad_()
    weight = None if weight is None else weight.double()
    target = target.double() if target.dim() == x.dim() else target
    rows, _ = reference.forward(exact, target, weight, options)
    total = (rows * factors(rows)).sum()
    if total.requires_grad:  # not where the terms are sums of the target alone
        total.backward()
    return rows.detach(), torch.zeros_like(exact) if exact.grad is None else exact.grad


def assert_close(
    ours: tuple[Tensor, Tensor],
    exact: tuple[Tensor, Tensor],
    dtype: torch.dtype,
    note: object = "",
    *,
    roundings: int = 10,
) -> None:
    """Assert rows as accurate as the CPU kernels', and a gradient of the input's dtype."""
    compute = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    for row, true_row in zip(ours[0], exact[0], strict=True):
        assert relative_max(row, true_row) < roundings * compute, note
    assert ours[1].dtype == dtype
    assert relative_l2(ours[1], exact[1]) < max(0.5 * torch.finfo(dtype).eps, 5 * compute), note
