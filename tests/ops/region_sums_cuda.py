"""The CUDA kernels of region_sums as operators on the CPU: built against tests/cuda_shim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from segloss_fast.ops.region_sums.native import codes
from segloss_fast.ops.region_sums.options import TERMS, Options
from tests.cuda_shim.operators import CSRC, build_operators, library_of

SOURCES = sorted((CSRC / "region_sums/cuda").glob("*.cu"))
LIBRARY = library_of("region_sums")


def build_library(
    output: Path,
    *,
    sources: Sequence[Path] = SOURCES,
    library: str = LIBRARY,
) -> Path:
    """Compile CUDA sources into a library of operators for CPU tensors."""
    return build_operators(sources, output, library)


def options_of(
    terms: Iterable[str] = TERMS,
    activation: str = "softmax",
    ce_activation: str | None = None,
    gamma: float = 2.0,
    ignore_index: int | None = None,
) -> Options:
    return Options(tuple(terms), activation, ce_activation or activation, gamma, ignore_index)


def forward(
    inputs: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[Tensor], options: Options
) -> tuple[Tensor, Tensor]:
    """Return the rows ``[K, sum of B, C]`` and the invalid labels ``[2]``."""
    result: tuple[Tensor, Tensor] = getattr(torch.ops, LIBRARY)._region_sums(
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
    result: list[Tensor] = getattr(torch.ops, LIBRARY)._region_sums_backward(
        grad_rows, list(inputs), list(targets), list(weights), *codes(options)
    )
    return result


def factors(rows: Tensor) -> Tensor:
    """Return gradients of the rows, all different."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(rows.shape, generator=generator, dtype=torch.float64)
