"""What the loss of one training step costs: time and memory of forward and backward."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.profiler import ProfilerActivity, profile

Loss = Callable[[Tensor, Tensor], Tensor]

WARMUP = 2


@dataclass(frozen=True)
class Cost:
    """The cost of a loss, forward and backward.

    Attributes:
        milliseconds: Median time.
        megabytes: Largest memory above inputs and gradient, in units of 10^6 bytes.
        value: The loss.
    """

    milliseconds: float
    megabytes: float
    value: float


def runs(loss: Loss, logits: Tensor, labels: Tensor) -> bool:
    """Try a step of a compiled loss, and say why it does not run where it does not.

    Args:
        loss: The loss.
        logits: ``[B, C, X, Y, Z]``.
        labels: ``[B, 1, X, Y, Z]`` int64.
    """
    try:
        _step(loss, logits.detach().requires_grad_(), labels)
    except RuntimeError as error:  # no C++ compiler, above all
        print(f"torch.compile is left out of the table: {str(error).strip().splitlines()[0]}")
        return False
    return True


def measure(
    losses: dict[str, Loss], logits: Tensor, labels: Tensor, repeats: int
) -> dict[str, Cost]:
    """Measure losses on the same batch.

    The repeats are interleaved, so that a disturbance of the machine meets all alike.

    Args:
        losses: Name and loss.
        logits: ``[B, C, X, Y, Z]``.
        labels: ``[B, 1, X, Y, Z]`` int64.
        repeats: Timed steps of each loss.

    Returns:
        Name and cost.
    """
    logits = logits.detach().requires_grad_()
    times: dict[str, list[float]] = {name: [] for name in losses}
    for repeat in range(WARMUP + repeats):
        for name, loss in losses.items():
            start = time.perf_counter()
            _step(loss, logits, labels)
            if repeat >= WARMUP:
                times[name].append(time.perf_counter() - start)
    return {
        name: Cost(
            milliseconds=1e3 * statistics.median(times[name]),
            megabytes=_peak_bytes(loss, logits, labels) / 1e6,
            value=_step(loss, logits, labels),
        )
        for name, loss in losses.items()
    }


def _step(loss: Loss, logits: Tensor, labels: Tensor) -> float:
    """Run forward and backward with a fresh gradient, and return the loss."""
    logits.grad = None
    value = loss(logits, labels)
    value.backward()
    return value.item()  # waits for a GPU


def _peak_bytes(loss: Loss, logits: Tensor, labels: Tensor) -> int:
    """Return the most that a step has allocated and not yet freed, without the gradient."""
    logits.grad = None
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler announces itself on stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss(logits, labels).backward()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    device = 0 if logits.device.type == "cpu" else 1  # of c10::DeviceType
    changes = [
        event["args"]
        for event in sorted(events, key=lambda event: event["ts"])
        if event["name"] == "[memory]" and event["args"]["Device Type"] == device
    ]
    assert logits.grad is not None
    kept = max(i for i, x in enumerate(changes) if x["Addr"] == logits.grad.data_ptr())
    now = peak = 0
    for change in changes[:kept] + changes[kept + 1 :]:
        now += change["Bytes"]
        peak = max(peak, now)
    return peak
