"""distance_transform on a CUDA device: our kernels, and CuPy's where it is installed.

    python -m pytest benchmarks/bench_distance_transform_cuda.py --benchmark-only -o addopts=

The published times (``interleaved_ms``) are medians by the device's clock, with the second-level
cache written over before each call. ``floor_bytes`` is what three passes must move, 17 per voxel of
a volume: 1 + 2, 2 + 4, 4 + 4; ``floor_ms`` is the time of a copy of as many, in the same run.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks import cuda
from segloss_fast import _native  # registers the operator

SIDES = ("inside", "outside", "both", "signed")
CONTENDERS = ("native", "triton", *(("cupy",) if find_spec("cupy") else ()))
PASS_BYTES = {1: 5, 2: 3 + 6, 3: 3 + 6 + 8}  # by the number of axes
FLUSH = 256 << 20
ROUNDS = 20


@dataclass(frozen=True)
class Case:
    """A mask and what is asked of it."""

    kind: str
    size: tuple[int, ...]
    spacing: tuple[float, ...] | None = None
    side: str = "inside"
    masks: int = 1

    def __str__(self) -> str:
        size = "x".join(map(str, self.size))
        spaced = "-spaced" if self.spacing else ""
        return f"{self.kind}-{self.masks}x{size}{spaced}-{self.side}"


KINDS = ("blobs", "ball", "around", "noise", "seeds")
CASES = [
    *(Case(kind, (256, 256, 256)) for kind in KINDS),
    *(Case(kind, (512, 512, 512)) for kind in KINDS[:3]),
    *(Case(kind, (256, 256, 256), side="both") for kind in KINDS[:2]),
    Case("blobs", (48, 512, 512), spacing=(3.0, 0.8, 0.8)),
    Case("blobs", (189, 233, 197)),
    Case("ball", (128, 128, 128), side="both", masks=6),
    Case("blobs", (64, 64, 64), masks=32),
    Case("blobs", (1024, 1024), side="signed", masks=16),
    Case("blobs", (4096, 4096)),
]
QUICK_CASES = [Case("blobs", (64, 64, 64)), Case("around", (64, 64, 64), side="both")]


def make_mask(case: Case) -> Tensor:
    """Return ``[1, masks, *size]`` on the device, bool."""
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (1, case.masks, *case.size)
    noise = torch.rand(shape, generator=generator, device="cuda")
    if case.kind == "noise":
        return noise < 0.5
    if case.kind == "seeds":
        return noise > 1e-4
    if case.kind == "blobs":
        pool = getattr(torch.nn.functional, f"avg_pool{len(case.size)}d")
        for _ in range(3):
            noise = pool(noise, 7, stride=1, padding=3, count_include_pad=False)
        return noise > 0.5
    square = torch.zeros((), device="cuda")
    for size in case.size:
        square = square[..., None] + (torch.arange(size, device="cuda") - size / 2).square()
    ball = square < (0.15 * max(case.size)) ** 2
    return (ball if case.kind == "ball" else ~ball).expand(shape).contiguous()


def make_call(contender: str, case: Case, mask: Tensor) -> Callable[[], object]:
    """Return what computes the distances; skip where it cannot."""
    spacing = list(case.spacing or [1.0] * len(case.size))
    if contender == "cupy":
        if case.side != "inside" or case.masks > 1 or len(case.size) == 1:
            pytest.skip("CuPy transforms one side of one mask")
        transform = import_module("cupyx.scipy.ndimage").distance_transform_edt
        array = import_module("cupy").from_dlpack(mask[0, 0].to(torch.uint8))
        return lambda: transform(array, sampling=case.spacing, float64_distances=False)
    if contender == "triton":
        launch = import_module("segloss_fast.ops.distance_transform.triton_launch")
        return lambda: launch.forward(mask, spacing, case.side, False)
    if _native.CUDA_BUILD is None:
        pytest.skip("the CUDA library was not built")
    operator = torch.ops.segloss_fast._distance_transform
    return lambda: operator(mask, spacing, SIDES.index(case.side), False)


@pytest.fixture(scope="module")
def bandwidth() -> float:
    """Return the bytes per second of a copy."""
    return cuda.copy_bandwidth()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Pair the cases with the contenders, where there is a device."""
    cases = QUICK_CASES if metafunc.config.getoption("quick") else CASES
    tests = [(case, name) for case in cases for name in CONTENDERS]
    here = tests if torch.cuda.is_available() else []
    ids = [f"{case}-{name}" for case, name in here]
    metafunc.parametrize(("case", "contender"), here, ids=ids)


def device_ms(call: Callable[[], object]) -> list[float]:
    """Return the quartiles of the time on the current stream, from a cold cache."""
    spoiler = torch.empty(FLUSH, dtype=torch.uint8, device="cuda")
    seconds = []
    for _ in range(ROUNDS):
        spoiler.zero_()
        clock = cuda.Clock()
        clock.tick()
        call()
        seconds.append(1e3 * clock.stop()[1])
    return statistics.quantiles(seconds, n=4)


def test_distance_transform(
    benchmark: BenchmarkFixture, case: Case, contender: str, bandwidth: float
) -> None:
    """Measure one case with one contender."""
    mask = make_mask(case)
    call = make_call(contender, case, mask)
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    moved = PASS_BYTES[len(case.size)] * mask.numel()
    low, median, high = device_ms(call)
    benchmark.group = str(case)
    benchmark.extra_info.update(
        case=str(case),
        loss="distance_transform",
        shape=list(mask.shape),
        dtype="bool",
        logits=f"{case.kind}, {case.side}",
        peer="cupy",
        device="cuda",
        ours="native",
        contender=contender,
        mode="both",
        interleaved_ms={"both": median},
        interleaved_iqr_ms={"both": high - low},
        interleaved_rounds=ROUNDS,
        memory={},
        accuracy={},
        floor_bytes={"both": moved},
        floor_ms=1e3 * moved / bandwidth,
    )

    def synchronised() -> None:
        call()
        torch.cuda.synchronize()

    benchmark.pedantic(synchronised, rounds=ROUNDS)  # type: ignore[no-untyped-call]
