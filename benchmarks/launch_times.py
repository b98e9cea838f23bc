"""How long the host takes for a launch of a Triton kernel: by Triton, and again, of a kept kernel.

    python -m benchmarks.launch_times

Without a device: what its driver would do, some 2 us for either, is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from segloss_fast.ops._triton.launch import Launch
from segloss_fast.ops.region_sums import triton_launch
from segloss_fast.ops.region_sums.options import Options
from tests.ops.triton.fake_driver import FakeDriver, fake_driver

CALLS, ROUNDS = 2000, 7


def launches() -> dict[str, Launch]:
    """Return those of DiceCE by name: the tensors are small, which no launch depends on."""
    x = torch.randn(2, 4, 16, 16, 16)
    labels = torch.zeros(2, 16, 16, 16, dtype=torch.uint8)
    options = Options(("tp", "pred", "target", "nll"), "softmax", "softmax", 2.0, None)
    rows = torch.empty((4, 2, 4), dtype=torch.float64)
    invalid = torch.empty(2, dtype=torch.float64)
    first, total = triton_launch.forward_launches(x, labels, None, options, rows, invalid)
    back = triton_launch.backward_launch(torch.empty_like(x), rows, x, labels, None, options)
    return {"forward": first, "its second stage": total, "backward": back}


def microseconds(call: Callable[[], object], device: FakeDriver) -> float:
    """Return the least time of a call among some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(CALLS):
            call()
        best = min(best, time.perf_counter() - begin)
        device.calls.clear()
    return best / CALLS * 1e6


def main() -> None:
    """Print a table."""
    print(f"{'launch':20}{'arguments':>10}{'Triton, us':>12}{'kept, us':>10}")
    with fake_driver() as device:
        for name, launch in launches().items():

            def by_triton(launch: Launch = launch) -> None:
                launch.kernel[launch.grid](**launch.arguments, **launch.constants, **launch.options)

            number = len(launch.kernel.params)
            times = [microseconds(call, device) for call in (by_triton, launch)]
            print(f"{name:20}{number:10}{times[0]:12.1f}{times[1]:10.1f}")


if __name__ == "__main__":
    main()
