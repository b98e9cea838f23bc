"""The CUDA kernels of lovasz as operators on the CPU: built against tests/cuda_shim."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops.lovasz import bins, reference
from segloss_fast.ops.lovasz.options import ACTIVATIONS, Options
from tests.cuda_shim.operators import CSRC
from tests.ops import lovasz_samples, region_sums_cuda

CUDA = CSRC / "lovasz/cuda"
SORT = "sort_cub"  # CUB's part, for which the CPU has a stand-in
SOURCES = sorted(CUDA.glob("*.cu"))
LIBRARY = "segloss_fast_lovasz_shim"


def build_library(output: Path, *, sanitize: bool = False) -> Path:
    """Compile the CUDA sources into a library of operators for CPU tensors."""
    sources = [path for path in SOURCES if path.stem != SORT]
    sources.append(Path(__file__).parent / "lovasz_sort_shim.cpp")
    return region_sums_cuda.build_library(
        output, sanitize=sanitize, sources=sources, library=LIBRARY
    )


def options_of(
    activation: str = "softmax",
    octaves: int = bins.DEFAULT[0],
    bits: int = bins.DEFAULT[1],
    per_image: bool = False,
    ignore_index: int | None = None,
    cross_entropy: bool = True,
) -> Options:
    return Options(activation, "histogram", octaves, bits, per_image, ignore_index, cross_entropy)


def sample(
    shape: tuple[int, ...],
    kind: str,
    activation: str = "softmax",
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, int | None]:
    """As that of lovasz_samples, which finds no hinge errors off the edges in half precision.

    There they are exact, and so are their bins.
    """
    if activation == "hinge" and torch.finfo(dtype).bits == 16:
        x, target, ignored = lovasz_samples.sample(shape, kind, "sigmoid")
        return x.to(dtype), target, ignored
    return lovasz_samples.sample(shape, kind, activation, dtype)


@dataclass(frozen=True)
class Result:
    """What one method computes, and the gradient of a random combination of its sums."""

    loss: Tensor
    rows: Tensor
    grad: Tensor
    counts: Tensor | None = None
    table: Tensor | None = None
    g: Tensor | None = None


def factors(loss: Tensor) -> tuple[Tensor, Tensor]:
    """Return gradients of the loss and of the cross-entropy, all different."""
    generator = torch.Generator().manual_seed(3)
    grads = 0.5 + torch.rand((2, *loss.shape), generator=generator, dtype=torch.float64)
    return grads[0], grads[1]


def _op(name: str) -> Any:  # noqa: ANN401
    return getattr(getattr(torch.ops, LIBRARY), f"_lovasz_{name}")


def count(x: Tensor, target: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor] = _op("count")(
        x,
        target,
        ACTIVATIONS.index(options.activation),
        options.octaves,
        options.bits,
        options.per_image,
        options.ignore_index,
        options.cross_entropy,
    )
    return result


def scan(
    counts: Tensor, rows: Tensor, options: Options, *, double: bool = True
) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = _op("scan")(
        counts, rows, ACTIVATIONS.index(options.activation), options.octaves, options.bits, double
    )
    return result


def backward(
    coefficients: Tensor, grad_ce: Tensor | None, x: Tensor, target: Tensor, options: Options
) -> Tensor:
    result: Tensor = _op("backward")(
        coefficients,
        grad_ce,
        x,
        target,
        ACTIVATIONS.index(options.activation),
        options.octaves,
        options.bits,
        options.ignore_index,
    )
    return result


def histogram(x: Tensor, target: Tensor, options: Options) -> Result:
    counts, rows, _ = count(x, target, options)
    loss, table = scan(counts, rows, options, double=x.dtype == torch.float64)
    grad_loss, grad_ce = factors(loss)
    coefficients = table * grad_loss[:, :, None, None].to(table.dtype)
    ce = grad_ce if options.cross_entropy else None
    return Result(loss, rows, backward(coefficients, ce, x, target, options), counts, table)


def sort(x: Tensor, target: Tensor, options: Options, *, wants_gradient: bool = True) -> Result:
    activation = ACTIVATIONS.index(options.activation)
    loss, rows, _, g = _op("sort")(
        x,
        target,
        activation,
        options.per_image,
        options.ignore_index,
        options.cross_entropy,
        wants_gradient,
    )
    grad = torch.empty(0)
    if wants_gradient:
        grad_loss, grad_ce = factors(loss)
        ce = grad_ce if options.cross_entropy else None
        grad = _op("sort_backward")(g, grad_loss, ce, x, target, activation, options.ignore_index)
    return Result(loss, rows, grad, g=g)


def truth(x: Tensor, target: Tensor, options: Options, method: str) -> Result:
    """Return the same by the reference in float64."""
    exact = x.detach().to(torch.float64, copy=True).requires_grad_()
    if method == "sort":
        loss, rows, _, g = reference.sort(exact, target, options)
        counts = table = None
    else:
        loss, rows, _, counts = reference.histogram(exact, target, options)
        _, table = reference.scan(counts, rows.detach(), options, torch.float64)
        g = None
    grad_loss, grad_ce = factors(loss)
    total = (loss * grad_loss).sum()
    if options.cross_entropy:
        total = total + (rows[1] * grad_ce).sum()
    (grad,) = torch.autograd.grad(total, exact)
    return Result(loss.detach(), rows.detach(), grad, counts, table, g)
