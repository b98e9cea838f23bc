"""Calls soft_skeleton and structural_error in every way that might touch what they must not.

The layouts and strange values are those of fuzz_region_sums.py.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops.soft_skeleton import soft_skeleton
from segloss_fast.ops.structural_error import structural_error
from tests.sanitizers.driver import attempt, every_instruction_set, share
from tests.sanitizers.fuzz_region_sums import (
    FLOATING,
    INTEGER,
    LAYOUTS,
    lay_out,
    random_input,
)

SHAPES = (
    *((1, 1, 1), (2, 3, 37), (1, 1, 513), (0, 2, 5), (2, 2, 0), (2, 0, 3)),
    *((2, 2, 1, 1), (1, 3, 7, 11), (1, 1, 64, 65), (3, 1, 1, 19)),
    *((1, 2, 1, 1, 1), (2, 2, 2, 3, 5), (1, 1, 31, 1, 17), (2, 1, 13, 17, 23), (1, 1, 40, 16, 17)),
)
DTYPES = (torch.float32, torch.float64)

draw = random.Random(0)


def solve(call: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the result, and the gradient of a weighted sum of it."""
    x = x.detach().requires_grad_()
    found = call(x)
    if not found.requires_grad:  # of the reference, where every class is left out
        return found, torch.zeros_like(x)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    (grad,) = torch.autograd.grad(found, x, lay_out(weights, draw.choice(LAYOUTS[:-1])))
    return found.detach(), grad


def compare(call: Callable[[Tensor, str], Tensor], x: Tensor, wild: bool, note: object) -> None:
    """Run the kernels; where the values are tame the reference must say the same."""
    native = solve(lambda x: call(x, "native"), x)
    if wild:
        return
    tolerance = 1e-4 if x.dtype == torch.float32 else 1e-6
    for found, true in zip(native, solve(lambda x: call(x, "reference"), x), strict=True):
        norm = max(1.0, float(true.norm()))
        assert float((found - true).norm()) <= tolerance * norm, note


def run_skeleton(dtype: torch.dtype, layout: str, wild: bool) -> None:
    x = random_input(draw.choice(SHAPES), dtype, "probabilities", wild)
    if draw.random() < 0.5 and not wild:
        x = (3 * x).round() / 3
    iterations, first = draw.choice((0, 1, 3, 12, 10**6)), draw.choice((0, 1, 7))
    iterations = min(iterations, 12) if not wild else iterations
    x = lay_out(x, layout)
    note = f"soft_skeleton {dtype} {layout} {list(x.shape)} {iterations} {first}"
    compare(lambda x, impl: soft_skeleton(x, iterations, first=first, impl=impl), x, wild, note)
    if not wild:
        mask = lay_out(x > 0.5, layout)
        found = soft_skeleton(mask, iterations, first=first, impl="native")
        true = soft_skeleton(mask, iterations, first=first, impl="reference")
        assert torch.equal(found, true), note


def run_error(dtype: torch.dtype, layout: str, wild: bool) -> None:
    x = random_input(draw.choice(SHAPES), dtype, "probabilities", wild)
    kind = draw.choice((*FLOATING, *INTEGER, torch.bool))
    target = lay_out((2 * torch.rand(x.shape)).to(kind), draw.choice(LAYOUTS))
    options: dict[str, Any] = {
        "window_size": draw.choice((1, 3, 5, 65)),
        "sigma": draw.choice((0.3, 1.5)),
        "constant": draw.choice((0.01, 1.0)),
        "first": draw.choice((0, 1, 7)),
    }
    x = lay_out(x, layout)
    note = f"structural_error {dtype} {layout} {list(x.shape)} {options}"
    # In float32 the gradient where a window is nearly equal throughout is that of its rounding.
    unknown = wild or dtype == torch.float32
    compare(lambda x, impl: structural_error(x, target, impl=impl, **options), x, unknown, note)


def run_malformed() -> None:
    """Calls that nobody makes through Python: an error, or a harmless answer."""
    x = torch.rand(2, 3, 5, 6)
    wrong = (
        *(torch.rand(2), torch.rand(2, 3, 5, 5), torch.rand(2, 3, 5, 6, 1), x.double(), x.half()),
        *(torch.rand(1, 1, 1, 1, 1, 1), x.to(torch.complex64), torch.empty(0)),
    )
    calls: list[tuple[Any, ...]] = [(x, k, f) for k in (-1, 2**62) for f in (0, -1, 2**62)]
    for arguments in (*calls, *((other, 2, 0) for other in wrong)):
        attempt("_soft_skeleton", *arguments)
    for pair in itertools.product((x, *wrong), repeat=2):
        attempt("_soft_skeleton_backward", *pair, 2, 0)
        attempt("_structural_error", *pair, 3, 1.5, 0.01, 0)
        for grad in (x, *wrong):
            attempt("_structural_error_backward", grad, *pair, 3, 1.5, 0.01, 0)
    for window, sigma, constant, first in itertools.product(
        (-1, 0, 2, 67, 2**62), (0.0, -1.0, torch.nan, 1.5), (0.0, torch.nan, 0.01), (-1, 2**62, 0)
    ):
        attempt("_structural_error", x, x, window, sigma, constant, first)


def run_all() -> None:
    for dtype, layout, wild, _ in share(
        itertools.product(DTYPES, LAYOUTS, (False, True), range(3))
    ):
        run_skeleton(dtype, layout, wild)
        run_error(dtype, layout, wild)
    run_malformed()


if __name__ == "__main__":
    every_instruction_set(run_all)
