"""Calls the CUDA kernels of lovasz, built with sanitizers for the CPU, in many ways.

The tensors are those of fuzz_region_sums.py: strange layouts, values and labels. The argument is
the library of operators.
"""

from __future__ import annotations

import ctypes
import random
import sys

import torch

from segloss_fast.ops.lovasz.options import ACTIVATIONS
from tests.ops.lovasz_cuda import histogram, options_of, sort
from tests.sanitizers.fuzz_region_sums import (
    IGNORED,
    INTEGER,
    LABELS,
    LAYOUTS,
    lay_out,
    random_input,
    random_target,
)

FLOATING = (torch.float16, torch.float32, torch.float64)  # for which the library is built
SIZES = ((1,), (61,), (2049,), (7, 11), (8, 16), (3, 5, 1), (4, 5, 7), (0, 3))
CLASSES = (1, 2, 3, 5, 14, 33, 130)
ROUNDS = 15

draw = random.Random(0)


def run(library: ctypes.CDLL) -> None:
    library.segloss_shim_set_seed(draw.choice((0, 1, 2)))
    library.segloss_shim_set_multiprocessors(draw.choice((1, 3, 40)))
    library.segloss_shim_set_shared_bytes(draw.choice((227, 60, 36)) * 1024)
    classes = draw.choice(CLASSES)
    activation = draw.choice([name for name in ACTIVATIONS if classes > 1 or name != "softmax"])
    ignored = draw.choice(IGNORED)
    shape = (draw.choice((1, 2)), classes, *draw.choice(SIZES))
    x = random_input(shape, draw.choice(FLOATING), "softmax", draw.random() < 0.3)
    dtype = draw.choice((*INTEGER, *FLOATING, torch.bfloat16))
    dense = ignored is None and draw.random() < 0.3
    target = random_target(shape, dtype, dense, ignored)
    if not dense and draw.random() < 0.3 and target.numel():
        target.view(-1)[-1] = draw.choice(LABELS[dtype])
    x, target = lay_out(x, draw.choice(LAYOUTS)), lay_out(target, draw.choice(LAYOUTS))
    octaves, bits = draw.choice(((9, 1), (12, 3), (16, 6), (16, 10)))
    options = options_of(
        activation, octaves, bits, draw.random() < 0.5, ignored, draw.random() < 0.5
    )
    for result in (histogram(x, target, options), sort(x, target, options)):
        assert result.grad.shape == x.shape


def main() -> None:
    torch.manual_seed(0)
    torch.ops.load_library(sys.argv[1])
    library = ctypes.CDLL(sys.argv[1])
    torch.use_deterministic_algorithms(True)  # new tensors are full of NaN
    for _ in range(ROUNDS):
        run(library)
    print("no finding")


if __name__ == "__main__":
    main()
