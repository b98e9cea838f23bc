"""The model of a GPU: what is kept is what is published, is of the cases that a device measures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.model import device, native, page
from benchmarks.model.device import Kernel
from benchmarks.model.native import SOURCES
from tests.gpu.check.times import compare, loss_cases
from tests.ops.lovasz_cuda import LONG
from tests.suite.kinds import interpreting, why_no_triton

KERNEL = Kernel("partial_sums", "forward", 285 * 10**6, 26.0, 4 * 256**3, 4, 108, 0, 1584)


def test_the_page_is_of_what_is_kept() -> None:
    kept = page.load()
    assert list(kept) == [case.name("triton") for case in loss_cases()]
    natives = page.load_natives()
    assert page.page(kept, natives) == page.PAGE.read_text()
    assert natives
    assert not any(native.spills for native in natives)
    assert [native.resident for native in natives if "DiceCE" in native.what] == [5, 5]
    for case, kernels in kept.items():
        assert {kernel.direction for kernel in kernels} == {"forward", "backward"}, case
        assert not any(kernel.spills for kernel in kernels), case


def test_limits_follow_from_the_counts() -> None:
    """By hand: 4 programs of 4 warps of 108 registers; 26 x 67e6 / 32 instructions of warps."""
    assert KERNEL.resident == 4
    assert KERNEL.waves == 3
    assert KERNEL.memory_us == pytest.approx(66.3, abs=0.1)
    assert KERNEL.issue_us == pytest.approx(54.5, abs=0.1)
    assert KERNEL.bound == "both"
    least = max(KERNEL.memory_us / device.OF_COPY, KERNEL.issue_us / device.OF_ISSUE)
    assert least < KERNEL.us < 1.2 * least
    assert replace(KERNEL, instructions=10.0).bound == "memory"
    assert replace(KERNEL, instructions=60.0).bound == "instructions"
    # A third of a wave more takes as long as a whole one.
    more = replace(KERNEL, programs=528 + 176, instructions=60.0)
    assert more.us > 1.4 * replace(more, programs=528).us


def test_short_kernels_wait() -> None:
    short = replace(KERNEL, bytes=2 * 10**5, round_trips=1)
    assert short.bound == "latency"
    assert short.us == pytest.approx(device.ROUND_TRIP + device.SYNCHRONISED, abs=0.1)
    assert replace(short, round_trips=3).us > short.us + device.ROUND_TRIP


def test_the_device_check_prints_them_beside_what_it_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, kernels = next(iter(page.load().items()))
    first = kernels[0]
    entry = {"forward_ms": 0.1234, "kernels": [[f"{first.name}_0d1d", 2, 200.0]]}
    compare(name, entry)
    said = capsys.readouterr().out
    predicted = page.milliseconds(kernels)["forward_ms"]
    assert f"forward_ms: 0.1234, predicted of its kernels {predicted:.4f}" in said
    assert f"{first.name}: 100.0 us, predicted {first.us:.1f}" in said
    assert f"{kernels[1].name}: not seen" in said
    assert "both_ms" not in said
    compare("of no such case", entry)
    assert capsys.readouterr().out == ""


@pytest.mark.compiled
@pytest.mark.skipif(
    why_no_triton() is not None or interpreting(), reason="needs Triton, not interpreted"
)
def test_what_is_kept_is_still_what_is_compiled() -> None:
    """Within a sixth. Where kernels have changed, python -m benchmarks.model writes it anew."""
    from benchmarks.model.count import count, launches

    case = next(loss_cases())
    found = [count(case, name, launch) for name, launch in launches(case).items()]
    for kept, now in zip(page.load()[case.name("triton")], found, strict=True):
        counted: dict[str, Any] = {"instructions": 0.0, "registers": 0, "around": 0.0}
        assert replace(kept, **counted) == replace(now, **counted)
        assert now.around == pytest.approx(kept.around, rel=1 / 4)
        assert now.instructions == pytest.approx(kept.instructions, rel=1 / 6)
        assert now.registers == pytest.approx(kept.registers, rel=1 / 6)


@pytest.mark.compiled
@pytest.mark.parametrize("place", range(len(SOURCES)), ids=lambda place: SOURCES[place].what)
def test_kernels_in_cpp_are_still_what_is_compiled(place: int) -> None:
    """Compiled as other tests of the same files do."""
    source, kept = SOURCES[place], page.load_natives()[place]
    path = Path(source.path)
    now = native.count(source, few=path.parts[0] == "lovasz" and path.stem in LONG)
    assert replace(kept, registers=0) == replace(now, registers=0)
    assert now.registers == pytest.approx(kept.registers, rel=1 / 6)
