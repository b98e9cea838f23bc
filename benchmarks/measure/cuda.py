"""What measuring on a CUDA device needs: its clock, its allocator, and the bandwidth of a copy."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor


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
