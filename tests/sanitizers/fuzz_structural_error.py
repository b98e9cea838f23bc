"""Calls structural_error in every way that might touch what it must not."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from segloss_fast.ops.structural_error import structural_error
from tests.sanitizers.driver import attempt, every_instruction_set, share
from tests.sanitizers.fuzz_region_sums import (
    FLOATING,
    INTEGER,
    LAYOUTS,
    lay_out,
    random_input,
)
from tests.sanitizers.windows import DTYPES, MALFORMED, SHAPES, compare, draw


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
    x = torch.rand(2, 3, 5, 6)
    for pair in itertools.product((x, *MALFORMED), repeat=2):
        attempt("_structural_error", *pair, 3, 1.5, 0.01, 0)
        for grad in (x, *MALFORMED):
            attempt("_structural_error_backward", grad, *pair, 3, 1.5, 0.01, 0)
    for window, sigma, constant, first in itertools.product(
        (-1, 0, 2, 67, 2**62), (0.0, -1.0, torch.nan, 1.5), (0.0, torch.nan, 0.01), (-1, 2**62, 0)
    ):
        attempt("_structural_error", x, x, window, sigma, constant, first)


def run_all() -> None:
    for dtype, layout, wild, _ in share(
        itertools.product(DTYPES, LAYOUTS, (False, True), range(3))
    ):
        run_error(dtype, layout, wild)
    run_malformed()


if __name__ == "__main__":
    every_instruction_set(run_all)
