"""The times of contenders: on the CPU of eager steps, on a GPU the device's own and those, too."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.measure import cuda
from benchmarks.measure.harness import Effort, Run, Step, Timing, interleave


class Replayed:
    """A step on a GPU, by the device's own clock: backward is what both take beyond forward.

    Args:
        step: What is captured.
    """

    def __init__(self, step: Step) -> None:
        self._forward = cuda.Replay(step.forward)
        self._both = cuda.Replay(lambda: step.backward(step.forward()))

    def __call__(self) -> dict[str, float]:
        """Run it; return the seconds of each mode."""
        forward, both = self._forward(), self._both()
        return {"forward": forward, "backward": both - forward, "both": both}


def measure_times(
    steps: Mapping[str, Step], effort: Effort
) -> tuple[dict[str, dict[str, Timing]], dict[str, dict[str, Timing]]]:
    """Compare steps, interleaved.

    Returns:
        Per contender and mode, its time. And on a GPU, where that is the device's, the time of
        eager steps on the wall, of both; empty on the CPU.
    """
    if not next(iter(steps.values())).on_gpu:
        return interleave(steps, effort), {}
    device = interleave({name: Replayed(step) for name, step in steps.items()}, effort)
    eager: dict[str, Run] = {
        name: lambda step=step: {"both": cuda.wall_seconds(step, 1)[0]}  # type: ignore[misc]
        for name, step in steps.items()
    }
    return device, interleave(eager, effort)
