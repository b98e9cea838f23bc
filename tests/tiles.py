"""How Triton's kernels are cut into programs and tiles where they are interpreted."""

from __future__ import annotations

from importlib import import_module

import pytest

# What gives small problems several programs, chunks and blocks: numbers of modules of ops.
SMALL: dict[str, tuple[str, dict[str, int]]] = {
    "region_sums": ("_triton.tiling", {"BLOCK_TILES": 2, "MAX_PROGRAMS": 4, "MIN_PROGRAMS": 4}),
    "lovasz": ("lovasz.triton_plan", {"BLOCK_TILES": 2, "MAX_PROGRAMS": 6, "MAX_REPLICAS": 2}),
    "confusion_sums": (
        "confusion_sums.triton_plan",
        {
            **{"BLOCK_TILES": 2, "MAX_PROGRAMS": 4, "MIN_PROGRAMS": 4},
            **{"MOST_CLASSES": 16, "BLOCK_C": 16},
        },
    ),
}
# What lets the interpreter add up many counters in few programs: its time is theirs.
FEW_PROGRAMS = {"lovasz": ("lovasz.triton_launch", {"BLOCK": 1 << 16})}


def set_numbers(patches: pytest.MonkeyPatch, name: str, numbers: dict[str, int]) -> None:
    """Set numbers of a module of segloss_fast.ops."""
    module = import_module(f"segloss_fast.ops.{name}")
    for number, value in numbers.items():
        patches.setattr(module, number, value)
