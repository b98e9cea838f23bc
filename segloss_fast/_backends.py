"""Says which implementations run in this install, on which devices, and why the others do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import torch

from segloss_fast._native import _C, CUDA_BUILD
from segloss_fast.ops.confusion_sums import kernels as confusion_sums_kernels
from segloss_fast.ops.distance_transform import kernels as distance_transform_kernels
from segloss_fast.ops.distance_transform import scipy_transform
from segloss_fast.ops.hardest_voxels import kernels as hardest_voxels_kernels
from segloss_fast.ops.lovasz import kernels as lovasz_kernels
from segloss_fast.ops.region_masks import kernels as region_masks_kernels
from segloss_fast.ops.region_sums import kernels as region_sums_kernels
from segloss_fast.ops.soft_skeleton import kernels as soft_skeleton_kernels
from segloss_fast.ops.structural_error import kernels as structural_error_kernels

PRIMITIVES: dict[str, Callable[[str, torch.device], str | None]] = {
    "region_sums": region_sums_kernels.why_not,
    "lovasz": lovasz_kernels.why_not,
    "distance_transform": distance_transform_kernels.why_not,
    "region_masks": region_masks_kernels.why_not,
    "hardest_voxels": hardest_voxels_kernels.why_not,
    "confusion_sums": confusion_sums_kernels.why_not,
    "soft_skeleton": soft_skeleton_kernels.why_not,
    "structural_error": structural_error_kernels.why_not,
}


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
    for primitive, why_not in PRIMITIVES.items():
        for device in ("cpu", "cuda"):
            missing = _missing_device(device)
            others = ("scipy",) if primitive == "distance_transform" and device == "cpu" else ()
            for impl in ("reference", "native", "triton", *others):
                reason = missing or (
                    None if impl == "reference" else why_not(impl, torch.device(device))
                )
                detail = reason or _detail(impl, device)
                found.append(Backend(primitive, impl, device, reason is None, detail))
    return found


def _missing_device(device: str) -> str | None:
    if device == "cpu" or torch.cuda.is_available():
        return None
    return "torch sees no CUDA device"


def _detail(impl: str, device: str) -> str:
    if impl == "reference":
        return f"PyTorch {torch.__version__}"
    if impl == "scipy":
        return scipy_transform.detail()
    if impl == "triton":
        return f"Triton {version('triton')}" + (", interpreted" if device == "cpu" else "")
    assert _C is not None
    if device == "cuda":
        assert CUDA_BUILD is not None
        return f"CUDA C++, {CUDA_BUILD['architectures']}, nvcc {CUDA_BUILD['compiler']}"
    return f"C++, {_C.cpu_capability()}, {_C.build_info()['compiler']}"
