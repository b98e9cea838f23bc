"""What the fuzzers of the window primitives share: shapes, and native beside reference.

The layouts and strange values are those of fuzz_region_sums.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

from tests.sanitizers.fuzz_region_sums import LAYOUTS, lay_out

SHAPES = (
    *((1, 1, 1), (2, 3, 37), (1, 1, 513), (0, 2, 5), (2, 2, 0), (2, 0, 3)),
    *((2, 2, 1, 1), (1, 3, 7, 11), (1, 1, 64, 65), (3, 1, 1, 19)),
    *((1, 2, 1, 1, 1), (2, 2, 2, 3, 5), (1, 1, 31, 1, 17), (2, 1, 13, 17, 23), (1, 1, 40, 16, 17)),
)
DTYPES = (torch.float32, torch.float64)

# Calls that nobody makes through Python are refused, or answered harmlessly.
MALFORMED = (
    *(torch.rand(2), torch.rand(2, 3, 5, 5), torch.rand(2, 3, 5, 6, 1)),
    *(torch.rand(2, 3, 5, 6).double(), torch.rand(2, 3, 5, 6).half()),
    *(torch.rand(1, 1, 1, 1, 1, 1), torch.rand(2, 3, 5, 6).to(torch.complex64), torch.empty(0)),
)

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
