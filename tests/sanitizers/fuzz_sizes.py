"""Expanded tensors whose sizes wrap, under the sanitizers: they are refused, before any arithmetic.

python tests/sanitizers/fuzz_sizes.py
"""

from __future__ import annotations

import itertools

import torch

from tests.ops.test_sizes import CALLS, SHAPES, WRAPPING, attempt_classes
from tests.sanitizers.driver import every_instruction_set


def run_all() -> None:
    for name, shape, dtype in itertools.product(CALLS, SHAPES, (torch.float16, torch.float32)):
        if name == "structural_error" and dtype == torch.float16:
            continue  # takes no half precision
        x = torch.zeros((), dtype=dtype).expand(shape)
        labels = torch.zeros((), dtype=torch.uint8).expand(shape[0], *shape[2:])
        try:
            CALLS[name](x, labels)
        except (RuntimeError, MemoryError):
            continue
        raise AssertionError(f"{name} took {shape} of {dtype}")
    for classes in WRAPPING:
        attempt_classes(classes)


if __name__ == "__main__":
    every_instruction_set(run_all)
