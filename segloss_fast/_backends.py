"""Says which implementations run in this install, on which devices, and why the others do not."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

import torch

from segloss_fast.ops import PRIMITIVES
from segloss_fast.ops._operator import Kernels


@dataclass(frozen=True)
class Backend:
    """One implementation of one primitive on one kind of device.

    Attributes:
        primitive: Name of the primitive.
        impl: ``"reference"``, ``"native"`` or ``"triton"``; ``"scipy"``, which serves
            distance_transform on a CPU without kernels.
        device: ``"cpu"`` or ``"cuda"``.
        available: Whether it runs here.
        detail: What it runs with, or why it does not.
    """

    primitive: str
    impl: str
    device: str
    available: bool
    detail: str


def backends() -> list[Backend]:
    """Return every implementation of every primitive on the CPU and on CUDA, available or not."""
    found = []
    for primitive in PRIMITIVES:
        kernels: Kernels = import_module(f"segloss_fast.ops.{primitive}.op").kernels
        for device in ("cpu", "cuda"):
            missing = None
            if device == "cuda" and not torch.cuda.is_available():
                missing = "torch sees no CUDA device"
            detail = missing or f"PyTorch {torch.__version__}"
            found.append(Backend(primitive, "reference", device, missing is None, detail))
            for impl, implementation in kernels.implementations.items():
                if device in implementation.devices:
                    reason = missing or kernels.why_not(impl, torch.device(device))
                    detail = reason or implementation.detail(device)
                    found.append(Backend(primitive, impl, device, reason is None, detail))
    return found
