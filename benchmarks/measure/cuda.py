"""What measuring on a CUDA device needs: its clock, its allocator, and the bandwidth of a copy.

A step has two times. That of the device is what its kernels take, one behind the other, from a cold
cache: a CUDA graph of the step is replayed, so that no time of the host is in it. The eager wall
time is what a training loop without graphs sees: launches, checks and Python included.
"""

from __future__ import annotations

import functools
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")
COLD = 256 << 20  # bytes that are written before each replay: more than any cache holds
STEPS = 5  # of which a wall time is the mean: the host may be ahead of the device, as in training
WARM = 3  # calls before a step is captured: those in which kernels are compiled and loaded


class Clock:
    """Seconds of two phases by the device's events; runs from its making."""

    def __init__(self) -> None:
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
        self._events[0].record()

    def tick(self) -> None:
        """Begin the second phase."""
        self._events[1].record()

    def stop(self) -> tuple[float, float]:
        """End the second phase; return both durations."""
        start, middle, end = self._events
        end.record()
        end.synchronize()
        return start.elapsed_time(middle) / 1e3, middle.elapsed_time(end) / 1e3


def capture(
    step: Callable[[], Result],
    warm: int = WARM,
    pool: Any = None,  # noqa: ANN401
) -> tuple[torch.cuda.CUDAGraph, Result]:
    """Return a CUDA graph of a step, and what it returned: replays write their results there.

    Args:
        step: What the current stream does. It is called ``warm`` times on another stream before.
        warm: At least 1, because the first call of a kernel loads it, which a capture forbids.
        pool: Of memory, shared with graphs that are never replayed at the same time, and whose
            results nobody needs; None for one of its own.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warm):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        result = step()
    return graph, result


@functools.cache
def _cold() -> Tensor:
    return torch.empty(COLD, dtype=torch.uint8, device="cuda")


@functools.cache
def _pool() -> Any:  # noqa: ANN401
    """Return the memory of all graphs that are only timed."""
    return torch.cuda.graph_pool_handle()


def guard(mode: str) -> None:
    """Set what torch does where the host waits: ``"default"``, ``"warn"`` or ``"error"``.

    It sets the mode, then warns that this is a prototype: were that an error, the mode would stay
    on for all that follows.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode(mode)


def waits(step: Callable[[], object]) -> bool:
    """Whether the host waits for the device in a step, which has run before."""
    try:
        guard("error")
        step()
    except RuntimeError:
        return True
    finally:
        guard("default")
    return False


class Replay:
    """A step that can be timed on the device: each call returns the seconds of one replay.

    Attributes:
        captured: Whether it is replayed. A step that waits for the device cannot be captured, and
            runs eagerly between the clock's events instead, with the gaps that the host leaves.
            That is asked before: a capture that fails leaves torch's allocator in it.
    """

    def __init__(self, step: Callable[[], object]) -> None:
        self._run: Callable[[], object] = step
        for _ in range(WARM):
            step()
        self.captured = not waits(step)
        if self.captured:
            graph, _ = capture(step, pool=_pool())
            self._run = graph.replay

    def __call__(self) -> float:
        """Return the seconds that the device takes, its cache written over before."""
        _cold().zero_()  # while it does this, the host gets ahead
        clock = Clock()
        clock.tick()
        kept = self._run()  # freed after the clock has stopped
        seconds = clock.stop()[1]
        del kept
        return seconds


def wall_seconds(
    step: Callable[[], object], rounds: int, wait: Callable[[], None] | None = None
) -> list[float]:
    """Return the seconds per step as the host sees them, of so many runs one behind the other.

    Args:
        step: Has run before.
        rounds: How many runs.
        wait: Returns when the device is done; None for that of CUDA.
    """
    wait = wait or torch.cuda.synchronize
    seconds = []
    for _ in range(rounds):
        wait()
        start = time.perf_counter()
        for _ in range(STEPS):
            step()
        wait()
        seconds.append((time.perf_counter() - start) / STEPS)
    return seconds


def memory(
    forward: Callable[[], Tensor], backward: Callable[[Tensor], tuple[Tensor, ...]]
) -> tuple[int, int]:
    """Return bytes kept between forward and backward, and at the peak, without the gradients."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    value = forward()
    saved = torch.cuda.memory_allocated() - before
    peak_forward = torch.cuda.max_memory_allocated() - before
    torch.cuda.reset_peak_memory_stats()
    grads = backward(value)
    # The gradients are there at the end, and may be from the start of backward: left out of both.
    own = sum(grad.untyped_storage().nbytes() for grad in grads)
    peak = max(peak_forward, torch.cuda.max_memory_allocated() - before - own)
    return saved, peak


def copy_bandwidth(megabytes: int = 1024, rounds: int = 20) -> float:
    """Return bytes per second, read and written, of a copy within the device's memory."""
    source = torch.empty(megabytes << 20, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = []
    for _ in range(rounds + 3):
        clock = Clock()
        clock.tick()
        target.copy_(source)
        seconds.append(clock.stop()[1])
    return 2 * source.numel() / statistics.median(seconds[3:])


def floor_bytes(inputs: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> dict[str, int]:
    """Return the bytes that no kernel can avoid: one read; one read and one write of the gradient.

    Args:
        inputs: The logits.
        targets: The labels, read with them both times.
    """
    logits = sum(x.numel() * x.element_size() for x in inputs)
    labels = sum(t.numel() * t.element_size() for t in targets)
    forward, backward = logits + labels, 2 * logits + labels
    return {"forward": forward, "backward": backward, "both": forward + backward}
