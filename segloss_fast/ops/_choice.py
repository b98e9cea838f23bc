"""Which kernels serve the primitives that work inside others: a choice that is never an error."""

from __future__ import annotations

from collections.abc import Callable

import torch

from segloss_fast._impl import resolve


def preference(device: torch.device) -> tuple[str, ...]:
    """Return the kernels that impl="auto" tries, the expected fastest first."""
    # On the CPU Triton only interprets: for tests, on request.
    return ("native",) if device.type == "cpu" else ("native", "triton")


def choose(
    impl: str, device: torch.device, why_not: Callable[[str, torch.device], str | None]
) -> str:
    """Return "native", "triton" or "reference".

    Never an error: the kernels that ``impl`` names are those of the primitive that the user called.
    Where they do not run here, the choice is that of ``"auto"``.

    Args:
        impl: What the user asked for.
        device: That of the tensors.
        why_not: Returns why kernels of this name cannot serve them, None where they can.
    """
    named = resolve(impl, ("auto",), lambda name: None)
    tried = preference(device) if named == "auto" else (named, *preference(device))
    return next(
        (name for name in tried if name == "reference" or why_not(name, device) is None),
        "reference",
    )
