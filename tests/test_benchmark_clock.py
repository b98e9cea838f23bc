"""The benchmarks' clock of a device, and capture() of the tests of a GPU: tried on a fake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.cases import contenders
from benchmarks.cases.contenders import DEFINITION, Case, contender, make_inputs, peer
from benchmarks.cases.eager_losses import STAND_INS
from benchmarks.measure import cuda
from benchmarks.measure import results as kept
from benchmarks.measure.clocks import Replayed, measure_times
from benchmarks.measure.harness import QUICK, Step, solve
from benchmarks.measure.results import Result, Row
from benchmarks.tables import distances, report
from tests.fake_cuda import FakeCuda


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Return a fake device, whose cache is cold in 3 milliseconds."""
    found = FakeCuda(monkeypatch)

    class Cold:
        def zero_(self) -> None:
            found.launch("cold", 3.0)

    monkeypatch.setattr(cuda, "_cold", Cold)
    monkeypatch.setattr(cuda, "_pool", lambda: (0, 1))
    return found


def test_a_capture_is_warmed_up_on_another_stream(fake: FakeCuda) -> None:
    def step() -> str:
        fake.launch("kernel", 2.0)
        return "result"

    graph, result = cuda.capture(step, warm=2)
    assert result == "result"
    assert fake.log == [
        "side waits for main",
        *["kernel on side"] * 2,
        "main waits for side",
        "kernel on capture",
    ]
    assert fake.clock == 4.0
    assert fake.pools == [None]
    graph.replay()
    assert fake.clock == 6.0


def test_a_replay_is_timed_from_a_cold_cache_and_without_the_host(fake: FakeCuda) -> None:
    replay = cuda.Replay(lambda: fake.launch("kernel", 2.0))
    assert replay.captured
    assert fake.pools == [(0, 1)]  # they share memory
    fake.log.clear()
    assert replay() == pytest.approx(2e-3)
    assert fake.log == ["cold on main", "replay", "kernel on main", "event"]


def test_what_cannot_be_captured_runs_eagerly(fake: FakeCuda) -> None:
    fake.refuses = True
    replay = cuda.Replay(lambda: fake.launch("kernel", 2.0))
    assert not replay.captured
    assert fake.pools == []  # a capture was not even begun
    assert fake.mode == "default"
    assert replay() == pytest.approx(2e-3)
    assert "replay" not in fake.log


def test_backward_is_what_both_take_beyond_forward(fake: FakeCuda) -> None:
    class Timed(Step):
        def forward(self) -> torch.Tensor:
            fake.launch("forward", 2.0)
            return super().forward()

        def backward(self, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
            fake.launch("backward", 5.0)
            return super().backward(value)

        @property
        def on_gpu(self) -> bool:
            return True

    x = torch.ones(3, requires_grad=True)
    step = Timed(lambda inputs, targets: inputs[0].sum(), (x,), ())
    found = Replayed(step)()
    wanted = {"forward": 2e-3, "backward": 5e-3, "both": 7e-3}
    assert found == pytest.approx(wanted)
    device, wall = measure_times({"ours": step}, QUICK)
    assert {mode: time.median for mode, time in device["ours"].items()} == pytest.approx(
        {mode: 1e3 * seconds for mode, seconds in wanted.items()}
    )
    assert set(wall["ours"]) == {"both"}


def test_on_the_cpu_there_is_one_time() -> None:
    x = torch.ones(3, requires_grad=True)
    step = Step(lambda inputs, targets: inputs[0].sum(), (x,), ())
    times, wall = measure_times({"ours": step}, QUICK)
    assert set(times["ours"]) == {"forward", "backward", "both"}
    assert wall == {}


def test_wall_time_waits_before_and_after_and_not_between() -> None:
    log: list[str] = []
    seconds = cuda.wall_seconds(lambda: log.append("step"), 2, lambda: log.append("wait"))
    assert len(seconds) == 2
    assert log == ["wait", *["step"] * cuda.STEPS, "wait"] * 2


def result_of(device: str, benchmark: str, wall: bool) -> Result:
    """Return a result with one case, like those that are committed."""
    found = next(
        result
        for result in kept.load(kept.RESULTS)
        if result.benchmark in ("region_sums", "distance_transform")
        and result.benchmark == benchmark.removesuffix("_cuda")
    )
    name = "native"
    row = Row(ms={"forward": 1.0, "backward": 2.0, "both": 3.0}, wall_ms={"both": 4.5})
    row.memory, row.accuracy = {"saved": 1, "peak": 2}, found.cases[0].rows[name].accuracy
    case = replace(
        found.cases[0], device=device, rows={name: row if wall else replace(row, wall_ms={})}
    )
    case.floor_bytes = {"forward": 1, "backward": 2, "both": 3}
    gpu = {"machine": "h200", "gpu_machine": "h200", "gpu": "H200", "copy_gb_s": "4300"}
    gpu |= {"cuda": "13.0", "cuda_triton": "Triton 3.6.0", "cuda_native": "CUDA C++, 90"}
    provenance = {**found.provenance, **gpu}
    return Result(benchmark, provenance, [case])


def test_tables_have_the_wall_time_where_it_was_measured() -> None:
    with_it = report.full([result_of("cuda", "region_sums_cuda", wall=True)])
    assert "| ours, CUDA C++ | ours, CUDA C++, wall |" in with_it
    assert "| 1 / 2 / 3 | 4.5 |" in with_it
    assert "replayed from a cold cache" in with_it
    without = report.full([result_of("cuda", "region_sums_cuda", wall=False)])
    assert "wall" not in without
    block = distances.block(result_of("cuda", "distance_transform_cuda", wall=True))
    assert block is not None
    assert "| CUDA C++, wall | Triton, wall | CuPy, wall | floor |" in block[1]
    assert "4.5" in block[1]


def test_results_of_the_cpu_have_no_wall_time(tmp_path: Path) -> None:
    for place, device in enumerate(("cpu", "cuda")):
        result = result_of(device, "region_sums", wall=device == "cuda")
        text = kept.save(result, tmp_path / device).read_text()
        assert text.count("wall_ms") == place
        assert kept.load(tmp_path / device) == [result]


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("loss", STAND_INS)
def test_without_monai_peers_are_of_plain_torch(
    monkeypatch: pytest.MonkeyPatch, loss: str, classes: int
) -> None:
    """And the same loss as ours, in float64."""
    monkeypatch.setattr(contenders, "HAS_MONAI", False)
    case = Case(loss, (2, classes, 8, 9, 10), dtype=torch.float64)
    assert peer(case) == DEFINITION
    assert "eager" in contenders.contenders(case)
    inputs, targets = make_inputs(case)
    value, grad = solve(Step(contender(case, "eager"), inputs, targets))
    true_value, true_grad = solve(Step(contender(case, "reference"), inputs, targets))
    assert value == pytest.approx(true_value, rel=1e-9)
    torch.testing.assert_close(grad, true_grad, rtol=1e-9, atol=1e-12)
    deep = Case("DeepDiceCE", (1, 4, 32, 32, 32))
    assert contender(deep, "eager")(*make_inputs(deep)).isfinite()
