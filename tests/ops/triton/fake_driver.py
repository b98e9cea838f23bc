"""Stands in for Triton's driver of a device that is not there: notes launches, compiles nothing.

All else is Triton's own: how it binds arguments, which kernel it takes, what its launcher gets.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import triton.compiler
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

# Each driver has a device of its own, of which no kernel has been compiled.
_devices = itertools.count(1000)


@dataclass(frozen=True)
class Call:
    """What the launcher of a compiled kernel got.

    Attributes:
        grid: Number of programs along three dimensions.
        stream: Of the device.
        function: The handle of the kernel's code.
        metadata: What Triton packed of it.
        listeners: What is told of the launch, and two hooks that are told.
        arguments: All of the kernel's, in order.
    """

    grid: tuple[int, ...]
    stream: int
    function: int
    metadata: object
    listeners: tuple[Any, ...]
    arguments: tuple[Any, ...]


class FakeDriver:
    """A device for which every kernel is compiled at once, into a number.

    Attributes:
        device: Its number.
        stream: The current one.
        backend: Of the device.
        calls: Of launchers.
        compiled: What Triton has asked to compile.
    """

    def __init__(self) -> None:
        self.device = next(_devices)
        self.stream = 7
        self.backend = "cuda"
        self.calls: list[Call] = []
        self.compiled: list[CompiledKernel] = []
        self.utils = self

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        assert device == self.device
        return self.stream

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 2**17}

    def load_binary(self, *arguments: Any) -> tuple[Any, ...]:  # noqa: ANN401
        return object(), len(self.compiled), 32, 0, 1024

    def launcher_cls(self, source: object, metadata: object) -> Callable[..., None]:
        """Return the launcher of a kernel."""

        def launch(x: int, y: int, z: int, stream: int, *rest: Any) -> None:  # noqa: ANN401
            function, metadata, *more = rest
            self.calls.append(
                Call((x, y, z), stream, function, metadata, tuple(more[:3]), tuple(more[3:]))
            )

        return launch

    def compile(self, src: object, target: GPUTarget, options: dict[str, Any]) -> CompiledKernel:
        """Return a kernel as Triton would compile it, without code."""
        kernel = CompiledKernel.__new__(CompiledKernel)
        kernel.metadata = SimpleNamespace(
            shared=0,
            num_warps=options["num_warps"],
            warp_size=32,
            target=GPUTarget(self.backend, 90, 32),
        )
        kernel.packed_metadata = object()
        kernel.src = src
        kernel.name = kernel.hash = ""
        kernel.metadata_group = {}
        kernel.kernel = kernel.module = kernel.function = kernel._run = None
        self.compiled.append(kernel)
        return kernel


@contextmanager
def fake_driver() -> Iterator[FakeDriver]:
    """Let Triton launch on a device that is not there."""
    found, before = FakeDriver(), driver._active
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(triton.compiler, "compile", found.compile)
        driver.set_active(found)
        try:
            yield found
        finally:
            driver._active = before
            for kernel in found.compiled:
                kernel.module = None  # or it would be unloaded, by a driver


@contextmanager
def counted_runs() -> Iterator[list[JITFunction[Any]]]:
    """Note the kernels that Triton launches itself."""
    found: list[JITFunction[Any]] = []
    run = JITFunction.run

    def noted(self: JITFunction[Any], *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        found.append(self)
        return run(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(JITFunction, "run", noted)
        yield found
