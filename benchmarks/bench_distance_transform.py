"""distance_transform against edt and scipy on the CPU, and against CuPy's on a CUDA device.

    python -m pytest benchmarks/bench_distance_transform.py --benchmark-only -o addopts=

A test is one case (mask, size, spacing) and one contender. On the CPU, one mask a call. As in
bench_region_sums.py, the published times are medians of an interleaved comparison
(``interleaved_ms``); pytest-benchmark's own serve ``--benchmark-compare``. edt and ours use the
same number of threads, scipy has one. All return the distances inside of a bool mask; edt and ours
in float32, scipy in float64. A test of ours fails if its answer is wrong: no speed without
accuracy.

On a device the published times are medians by its clock, of replays with the second-level cache
written over before each, and of eager calls on the wall; CuPy is compared where it is installed.
``floor_bytes`` is what three passes must move, 17 per voxel of a volume: 1 + 2, 2 + 4, 4 + 4.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cases.distances import (
    CONTENDERS,
    CUDA_CONTENDERS,
    HEAD,
    MASKS,
    PASS_BYTES,
    TISSUES,
    Case,
    CudaCase,
    cuda_contender,
    make_cuda_masks,
)
from benchmarks.measure import distances
from benchmarks.measure.choice import parametrize
from benchmarks.measure.harness import Effort

ANISOTROPIC = (3.0, 0.8, 0.8)
SIZES = [(128, 128, 128), (96, 160, 160), (192, 192, 192), (256, 256, 256)]
CASES = [Case(mask, size) for size in SIZES for mask in MASKS]
CASES += [Case(mask, (48, 512, 512), ANISOTROPIC) for mask in MASKS]
CASES += [Case(tissue, HEAD) for tissue in TISSUES]
QUICK_CASES = [Case(mask, (64, 64, 64)) for mask in MASKS]
QUICK_CASES += [Case("blobs", (24, 128, 128), ANISOTROPIC)]
CUDA_MASKS = ("blobs", "ball", "around", "noise", "seeds")
CUDA_CASES = [
    *(CudaCase(mask, (256, 256, 256)) for mask in CUDA_MASKS),
    *(CudaCase(mask, (512, 512, 512)) for mask in CUDA_MASKS[:3]),
    *(CudaCase(mask, (256, 256, 256), side="both") for mask in CUDA_MASKS[:2]),
    CudaCase("blobs", (48, 512, 512), ANISOTROPIC),
    CudaCase("blobs", (189, 233, 197)),
    CudaCase("ball", (128, 128, 128), side="both", masks=6),
    CudaCase("blobs", (64, 64, 64), masks=32),
    CudaCase("blobs", (1024, 1024), side="signed", masks=16),
    CudaCase("blobs", (4096, 4096)),
]
QUICK_CUDA_CASES = [
    CudaCase("blobs", (64, 64, 64)),
    CudaCase("around", (64, 64, 64), side="both"),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function is test_distance_transform:
        parametrize(metafunc, CASES, QUICK_CASES, lambda case: CONTENDERS)
    else:
        parametrize(metafunc, CUDA_CASES, QUICK_CUDA_CASES, lambda case: CUDA_CONTENDERS)


def test_distance_transform(
    benchmark: BenchmarkFixture, case: Case, contender: str, effort: Effort
) -> None:
    measured = distances.measure(case, effort)
    taken = measured.times[contender]["both"]
    memory = {"peak": measured.peak} if contender == "native" else {}
    accuracy = {"value": measured.errors[contender]}
    distances.record(benchmark, case, contender, "edt", taken, memory=memory, accuracy=accuracy)
    rounds = effort.count(taken.median / 1e3, effort.single, most=50)
    benchmark.pedantic(measured.runs[contender], rounds=rounds)  # type: ignore[no-untyped-call]
    if contender == "native":
        assert measured.errors[contender] < 2e-6


def test_distance_transform_cuda(
    benchmark: BenchmarkFixture, case: CudaCase, contender: str
) -> None:
    masks = make_cuda_masks(case)
    call = cuda_contender(case, contender, masks)
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    floor = {"both": PASS_BYTES[len(case.size)] * masks.numel()}
    taken, wall = distances.on_device(call)
    found = {"floor_bytes": floor, "wall_ms": {"both": wall.median}}
    distances.record(benchmark, case, contender, "cupy", taken, **found)

    def synchronised() -> None:
        call()
        torch.cuda.synchronize()

    benchmark.pedantic(synchronised, rounds=distances.ROUNDS)  # type: ignore[no-untyped-call]
