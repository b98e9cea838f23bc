"""Stands in for what of torch.cuda captures and replays graphs: logs the calls, runs on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch


class FakeCuda:
    """A device whose clock goes on by what is enqueued.

    Attributes:
        log: What happened, in order.
        clock: Milliseconds of the device.
        refuses: Whether kernels end with torch's error where the host may not wait.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.clock = 0.0
        self.capturing: list[Callable[[], None]] | None = None
        self.streams = ["main"]
        self.refuses = False
        self.mode = "default"
        self.pools: list[object] = []
        fakes: dict[str, Any] = {
            "Stream": lambda: _Stream(self, "side"),
            "current_stream": lambda: _Stream(self, self.streams[-1]),
            "stream": self._stream,
            "CUDAGraph": lambda: _Graph(self),
            "graph": self._graph,
            "graph_pool_handle": lambda: (0, 1),
            "Event": lambda enable_timing: _Event(self),
            "set_sync_debug_mode": self._set_mode,
            "synchronize": lambda: self.log.append("synchronize"),
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    def launch(self, name: str, milliseconds: float) -> None:
        """Do as a kernel: run now, or be captured."""
        if self.refuses and self.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        self.log.append(f"{name} on {self.streams[-1]}")
        if self.capturing is None:
            self.clock += milliseconds
        else:
            self.capturing.append(lambda: self.launch(name, milliseconds))

    def _set_mode(self, mode: str) -> None:
        self.mode = mode
        warnings.warn("a prototype feature", UserWarning, stacklevel=1)

    @contextmanager
    def _stream(self, stream: _Stream) -> Iterator[None]:
        self.streams.append(stream.name)
        yield
        self.streams.pop()

    @contextmanager
    def _graph(self, graph: _Graph, pool: object = None) -> Iterator[None]:
        self.pools.append(pool)
        self.streams.append("capture")
        self.capturing = graph.calls
        yield
        self.capturing = None
        self.streams.pop()


class _Stream:
    def __init__(self, cuda: FakeCuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: _Stream) -> None:
        self.cuda.log.append(f"{self.name} waits for {other.name}")


class _Graph:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.calls: list[Callable[[], None]] = []

    def replay(self) -> None:
        self.cuda.log.append("replay")
        for call in self.calls:
            call()


class _Event:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.at = cuda, 0.0

    def record(self) -> None:
        self.at = self.cuda.clock

    def synchronize(self) -> None:
        self.cuda.log.append("event")

    def elapsed_time(self, other: _Event) -> float:
        return other.at - self.at
