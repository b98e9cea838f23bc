"""Calls the CUDA kernels of region_sums, built with sanitizers for the CPU, in many ways.

The tensors are those of fuzz_region_sums.py: strange layouts, values and labels. The argument is
the library of operators.
"""

from __future__ import annotations

import ctypes
import random
import sys

import torch
from torch import Tensor

from segloss_fast.ops._voxels.maps import ACTIVATIONS
from segloss_fast.ops.region_sums.options import TERMS
from tests.ops.region_sums_cuda import backward, factors, forward, options_of
from tests.sanitizers.fuzz_region_sums import (
    FLOATING,
    IGNORED,
    INTEGER,
    LABELS,
    LAYOUTS,
    lay_out,
    random_input,
    random_target,
)

SIZES = ((1,), (61,), (513,), (1, 1), (7, 11), (8, 16), (3, 5, 1), (4, 5, 7), (0, 3))
CLASSES = (1, 2, 3, 14, 33, 130)
ROUNDS = 30

draw = random.Random(0)


def random_levels(
    classes: int, dtype: torch.dtype, activation: str, ignored: int | None
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return inputs, targets and weights of one or several levels."""
    dense = ignored is None and draw.random() < 0.4
    target_dtype = draw.choice((*INTEGER, *FLOATING))
    weight_dtype, kind = draw.choice(FLOATING), draw.choice(("none", "shared", "per class"))
    inputs, targets, weights = [], [], []
    for _ in range(draw.choice((1, 1, 2, 9))):
        size = draw.choice(SIZES)
        shape = (draw.choice((1, 2)), classes, *size)
        x = random_input(shape, dtype, activation, draw.random() < 0.3)
        inputs.append(lay_out(x, draw.choice(LAYOUTS)))
        target = random_target(shape, target_dtype, dense, ignored)
        if not dense and draw.random() < 0.3 and target.numel():
            target.view(-1)[-1] = draw.choice(LABELS[target_dtype])
        targets.append(lay_out(target, draw.choice(LAYOUTS)))
        if kind != "none":
            weight = torch.randn(shape[0], 1 if kind == "shared" else classes, *size)
            weights.append(lay_out(weight.to(weight_dtype), draw.choice(LAYOUTS)))
    return inputs, targets, weights


def run(library: ctypes.CDLL) -> None:
    library.segloss_shim_set_seed(draw.choice((0, 1, 2)))
    library.segloss_shim_set_multiprocessors(draw.choice((1, 3, 40)))
    classes = draw.choice(CLASSES)
    activation = draw.choice([name for name in ACTIVATIONS if classes > 1 or name != "softmax"])
    ignored = draw.choice(IGNORED)
    terms = TERMS if draw.random() < 0.4 else draw.sample(TERMS, draw.randint(1, 4))
    options = options_of(terms, activation, None, draw.choice((0.3, 2.0)), ignored)
    tensors = random_levels(classes, draw.choice(FLOATING), activation, ignored)
    rows, invalid = forward(*tensors, options)
    assert invalid[0] == 0 or rows.isnan().all()
    grads = backward(factors(rows), *tensors, options)
    assert [grad.shape for grad in grads] == [x.shape for x in tensors[0]]


def main() -> None:
    torch.manual_seed(0)
    torch.ops.load_library(sys.argv[1])
    library = ctypes.CDLL(sys.argv[1])
    for _ in range(ROUNDS):
        run(library)
    print("no finding")


if __name__ == "__main__":
    main()
