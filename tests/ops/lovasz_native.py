"""The raw CPU operators of lovasz, called with a record of options."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast.ops.lovasz.options import ACTIVATIONS, Options
from tests.ops.lovasz_samples import LAYOUT

ops = torch.ops.segloss_fast


def options_of(
    activation: str, per_image: bool = False, ignore_index: int | None = None, method: str = "sort"
) -> Options:
    return Options(activation, method, *LAYOUT, per_image, ignore_index, True)


def count(x: Tensor, target: Tensor, o: Options) -> tuple[Tensor, Tensor, Tensor]:
    code = ACTIVATIONS.index(o.activation)
    found: tuple[Tensor, Tensor, Tensor] = ops._lovasz_count(
        x, target, code, o.octaves, o.bits, o.per_image, o.ignore_index, o.cross_entropy
    )
    return found


def scan(counts: Tensor, rows: Tensor, o: Options, double: bool) -> tuple[Tensor, Tensor]:
    code = ACTIVATIONS.index(o.activation)
    found: tuple[Tensor, Tensor] = ops._lovasz_scan(counts, rows, code, o.octaves, o.bits, double)
    return found


def backward(
    coefficients: Tensor, grad_ce: Tensor | None, x: Tensor, target: Tensor, o: Options
) -> Tensor:
    code = ACTIVATIONS.index(o.activation)
    grad: Tensor = ops._lovasz_backward(
        coefficients, grad_ce, x, target, code, o.octaves, o.bits, o.ignore_index
    )
    return grad


def sort(
    x: Tensor, target: Tensor, o: Options, wants_gradient: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    code = ACTIVATIONS.index(o.activation)
    found: tuple[Tensor, Tensor, Tensor, Tensor] = ops._lovasz_sort(
        x, target, code, o.per_image, o.ignore_index, o.cross_entropy, wants_gradient
    )
    return found


def sort_backward(
    g: Tensor, grad_loss: Tensor, grad_ce: Tensor | None, x: Tensor, target: Tensor, o: Options
) -> Tensor:
    code = ACTIVATIONS.index(o.activation)
    grad: Tensor = ops._lovasz_sort_backward(g, grad_loss, grad_ce, x, target, code, o.ignore_index)
    return grad


def weights(shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Return gradients of the losses and of the cross-entropy sums that tell classes apart."""
    n = shape.numel()
    return (
        torch.linspace(1, 2, n, dtype=torch.float64).view(shape),
        torch.linspace(-1, 1, n, dtype=torch.float64).view(shape) / 50,
    )


def run_all(x: Tensor, target: Tensor, o: Options) -> dict[str, Tensor]:
    """Return all that both methods yield."""
    counts, rows, invalid = count(x, target, o)
    loss, table = scan(counts, rows, o, x.dtype == torch.float64)
    grad_loss, grad_ce = weights(loss.shape)
    coefficients = (table * grad_loss[:, :, None, None]).to(table.dtype)
    sorted_loss, sorted_rows, _, g = sort(x, target, o)
    return {
        "counts": counts,
        "rows": rows,
        "invalid": invalid,
        "loss": loss,
        "table": table,
        "grad": backward(coefficients, grad_ce, x, target, o),
        "sorted loss": sorted_loss,
        "sorted rows": sorted_rows,
        "g": g,
        "sorted grad": sort_backward(g, grad_loss, grad_ce, x, target, o),
    }
