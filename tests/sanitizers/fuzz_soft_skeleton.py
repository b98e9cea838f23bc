"""Calls soft_skeleton in every way that might touch what it must not."""

from __future__ import annotations

import itertools

import torch

from segloss_fast.ops.soft_skeleton import soft_skeleton
from tests.sanitizers.driver import attempt, every_instruction_set, share
from tests.sanitizers.fuzz_region_sums import LAYOUTS, lay_out, random_input
from tests.sanitizers.windows import DTYPES, MALFORMED, SHAPES, compare, draw


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


def run_malformed() -> None:
    x = torch.rand(2, 3, 5, 6)
    for iterations, first in itertools.product((-1, 2**62), (0, -1, 2**62)):
        attempt("_soft_skeleton", x, iterations, first)
    for wrong in MALFORMED:
        attempt("_soft_skeleton", wrong, 2, 0)
    for pair in itertools.product((x, *MALFORMED), repeat=2):
        attempt("_soft_skeleton_backward", *pair, 2, 0)


def run_all() -> None:
    for dtype, layout, wild, _ in share(
        itertools.product(DTYPES, LAYOUTS, (False, True), range(3))
    ):
        run_skeleton(dtype, layout, wild)
    run_malformed()


if __name__ == "__main__":
    every_instruction_set(run_all)
