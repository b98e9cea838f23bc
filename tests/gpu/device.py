"""The device under test, and the implementations that run on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from filelock import FileLock
from torch import Tensor

from benchmarks.measure.cuda import guard
from segloss_fast import backends
from tests.suite.built import CACHE

DEVICE = "cuda"
ALIGNMENT = 16  # bytes: what kernels are compiled for, and what vectors need
# Named even where this install lacks one: its tests are then skipped, with the reason.
KERNELS = ("native", "triton")
IMPLS = ("reference", *KERNELS)
LOCK = CACHE / "device_memory.lock"


def require(impl: str, *primitives: str) -> None:
    """Skip the test where the implementation of a primitive (region_sums) does not run here."""
    for backend in backends():
        if (backend.impl, backend.device, backend.available) == (impl, DEVICE, False) and (
            backend.primitive in (primitives or ("region_sums",))
        ):
            pytest.skip(backend.detail)


def on_device(*tensors: Tensor | None) -> list[Tensor | None]:
    """Return the tensors on the device; None stays None."""
    return [None if tensor is None else tensor.to(DEVICE) for tensor in tensors]


def there(tensor: Tensor) -> Tensor:
    """Return the tensor on the device, in memory laid out and aligned as on the CPU."""
    if tensor.numel() == 0:
        return tensor.to(DEVICE)
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    room = 1 + sum((size - 1) * stride for size, stride in steps)
    shift = tensor.data_ptr() % ALIGNMENT // tensor.element_size()
    whole = torch.empty(shift + room, dtype=tensor.dtype, device=DEVICE)
    whole[shift:] = torch.as_strided(tensor, (room,), (1,))
    return torch.as_strided(whole, tensor.shape, tensor.stride(), shift)


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """Raise where the host waits for the device."""
    torch.cuda.synchronize()
    try:
        guard("error")
        yield
    finally:
        guard("default")


@contextmanager
def memory_alone() -> Iterator[int]:
    """Yield the device's free bytes; no other process that asks in this way runs meanwhile.

    Two that looked at once would both find them free, and both take them.
    """
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(LOCK):
        torch.cuda.empty_cache()
        try:
            yield torch.cuda.mem_get_info()[0]
        finally:
            torch.cuda.empty_cache()  # else the next one finds none, though nobody uses it
