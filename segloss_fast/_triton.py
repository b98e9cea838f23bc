"""A launch of a Triton kernel, as the primitives' launchers describe it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel, with everything that decides how it is compiled.

    Attributes:
        kernel: The jitted function.
        grid: Number of programs.
        arguments: By name, at run time.
        constants: By name, at compile time.
        warps: Warps per program.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any]
    warps: int = 4

    @property
    def options(self) -> dict[str, Any]:
        """What the compiler is told."""
        return {"num_warps": self.warps, "num_stages": 1, "enable_fp_fusion": True}

    def __call__(self) -> None:
        """Enqueue the kernel on the current stream."""
        self.kernel[self.grid](**self.arguments, **self.constants, **self.options)
