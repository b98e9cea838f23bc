"""Device times of the main kernels, with a table by kernel, beside a copy's bandwidth.

    python -m tests.gpu.check.times FOLDER [--device cpu --small]

On a GPU a step is captured in a CUDA graph and replayed with a cold cache, so that the host's time
is not in it; the wall time of the same step without a graph stands beside it. Results go to
FOLDER/times.jsonl as they come, with what was predicted (benchmarks/model) beside what is measured.
"""

from __future__ import annotations

import statistics
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import segloss_fast
from benchmarks.measure import cuda
from benchmarks.model import page
from tests.gpu.check.journal import Journal, arguments, synchronize
from tests.gpu.check.problems import Problem, kernels_of

Step = Callable[[], object]
F32, BF16 = torch.float32, torch.bfloat16
# Classes, side, dtype, labels, batch.
SUMS = (
    (4, 256, F32, torch.uint8, 1),
    (4, 256, BF16, torch.uint8, 1),
    (2, 256, F32, torch.uint8, 1),
    (14, 192, F32, torch.uint8, 1),
    (14, 192, BF16, torch.uint8, 1),
    (32, 128, F32, torch.uint8, 1),
    (105, 96, F32, torch.uint8, 1),
    (4, 128, F32, torch.int64, 2),
)
ROUNDS, WALL = 15, 3


def on_device(step: Step) -> float:
    """Return the milliseconds of a step on the device: the median of replays of its graph."""
    replay = cuda.Replay(step)
    return 1e3 * statistics.median(replay() for _ in range(ROUNDS))


def on_the_wall(step: Step, device: str) -> float:
    """Return the milliseconds of a step as the host sees it, one behind the other."""
    for _ in range(3):
        step()
    return 1e3 * statistics.median(cuda.wall_seconds(step, WALL, lambda: synchronize(device)))


def by_kernel(step: Step, device: str) -> list[tuple[str, int, float]]:
    """Return name, launches and microseconds of each kernel of one step, the longest first."""
    synchronize(device)
    of_device = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[of_device]) as found:
        step()
        synchronize(device)
    key = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    rows = [(e.key[:80], e.count, float(getattr(e, key))) for e in found.key_averages()]
    return sorted((row for row in rows if row[2] > 0), key=lambda row: -row[2])


def measure(steps: dict[str, Step], device: str, floors: dict[str, int]) -> dict[str, Any]:
    """Return the times of steps, and what part of a copy's bandwidth they reach.

    Args:
        steps: By name; the last is the whole, of which wall time and kernels are reported.
        device: Where.
        floors: Bytes that each must move, as far as they are known.
    """
    clock = on_device if device == "cuda" else lambda step: on_the_wall(step, device)
    entry: dict[str, Any] = {"ok": True}
    for name, step in steps.items():
        entry[f"{name}_ms"] = clock(step)
        if name in floors:
            entry[f"{name}_gb_per_s"] = floors[name] / entry[f"{name}_ms"] / 1e6
    whole = list(steps.values())[-1]
    entry["wall_ms"] = on_the_wall(whole, device)
    entry["kernels"] = by_kernel(whole, device)
    entry["launches"] = sum(count for _, count, _ in entry["kernels"])
    return entry


def measure_loss(loss: Callable[..., Tensor], problem: Problem, device: str) -> dict[str, Any]:
    """Measure forward alone, and forward and backward."""
    x, y = problem.tensors(device)
    x.requires_grad_()
    steps: dict[str, Step] = {
        "forward": lambda: loss(x, y),
        "both": lambda: torch.autograd.grad(loss(x, y), x),
    }
    floors = cuda.floor_bytes((x,), (y,))
    return measure(steps, device, {name: floors[name] for name in steps})


@dataclass(frozen=True)
class LossCase:
    """A loss to be measured."""

    loss: str
    problem: Problem

    def name(self, impl: str) -> str:
        """What it is called in the results, and in benchmarks/model."""
        return f"{self.loss} {impl} {self.problem} {str(self.problem.labels)[6:]}"

    def module(self, impl: str) -> Callable[..., Tensor]:
        """Return the loss."""
        if self.loss == "lovasz":
            return segloss_fast.LovaszSoftmaxLoss(method="histogram", impl=impl)
        return segloss_fast.DiceCELoss(impl=impl)

    @property
    def primitive(self) -> str:
        """What its kernels belong to."""
        return "lovasz" if self.loss == "lovasz" else "region_sums"


def loss_cases(small: bool = False) -> Iterator[LossCase]:
    """Yield Dice and cross-entropy, then Lovász."""
    for classes, side, dtype, labels, batch in SUMS:
        cube = (side // 16 if small else side,) * 3
        yield LossCase("dice_ce", Problem(classes, cube, dtype, labels, batch=batch))
    for classes in (4, 14):
        yield LossCase("lovasz", Problem(classes, (16 if small else 256,) * 3, batch=1))


def compare(name: str, entry: dict[str, Any]) -> None:
    """Print what was predicted of a case beside what was measured, kernel by kernel."""
    kernels = page.load().get(name, [])
    for mode, predicted in page.milliseconds(kernels).items() if kernels else ():
        if mode in entry:
            print(f"    {mode}: {entry[mode]:.4f}, predicted of its kernels {predicted:.4f}")
    for kernel in kernels:
        measured = [us / n for key, n, us in entry.get("kernels", ()) if kernel.name in key]
        found = f"{measured[0]:.1f}" if measured else "not seen"
        print(f"    {kernel.name}: {found} us, predicted {kernel.us:.1f} ({kernel.bound})")


def time_losses(journal: Journal, device: str, small: bool) -> None:
    """Measure the losses, by all kernels."""
    for primitive in ("region_sums", "lovasz"):
        for impl in kernels_of(primitive, device):
            for case in loss_cases(small):
                if case.primitive == primitive:
                    name = case.name(impl)
                    journal.note(name, measure_loss, case.module(impl), case.problem, device)
                    compare(name, journal.found[name])


def time_distances(journal: Journal, device: str, small: bool) -> None:
    """Measure the transform of blobs, of a ball, and of what is around it."""
    side = 24 if small else 256
    source = torch.Generator(device).manual_seed(0)
    noise = torch.rand((1, 1, side, side, side), generator=source, device=device)
    for _ in range(3):
        noise = torch.nn.functional.avg_pool3d(noise, 7, 1, 3, count_include_pad=False)
    axis = torch.arange(side, device=device) - side // 2
    squares = axis.square()
    ball = (squares[:, None, None] + squares[:, None] + squares < (side // 6) ** 2)[None, None]
    for impl in kernels_of("distance_transform", device):
        for kind, mask in (("blobs", noise > 0.5), ("ball", ball), ("around", ~ball)):
            for of in ("inside", "both"):

                def step(mask: Tensor = mask, of: str = of, impl: str = impl) -> object:
                    return segloss_fast.distance_transform(mask, side=of, impl=impl)

                name = f"distances {impl} {kind} {side}^3 {of}"
                journal.note(name, measure, {"forward": step}, device, {})


def main() -> int:
    """Measure, what most train with first."""
    warnings.simplefilter("ignore")
    options = arguments(__doc__ or "")
    journal = Journal(options.folder / "times.jsonl")
    if options.device == "cuda":
        journal.note("copy", lambda: {"ok": True, "gb_per_s": cuda.copy_bandwidth() / 1e9})
    time_losses(journal, options.device, options.small)
    time_distances(journal, options.device, options.small)
    return journal.end()


if __name__ == "__main__":
    sys.exit(main())
