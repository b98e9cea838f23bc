"""What the benchmarks keep: a result per device, which the tables find by its name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure.results import RESULTS, compact, load, save
from tests.conftest import ROOT
from tests.suite.tiers import begins_in

PROVENANCE = {"machine": "some-cpu-2t", "gpu_machine": "some-gpu"}


def measured(case: str, device: str, contender: str, mode: str, ms: float) -> dict[str, Any]:
    """Return what pytest-benchmark writes of one test."""
    info = {
        **{"case": case, "loss": "Dice", "shape": [1, 2, 8, 8], "dtype": "float32"},
        **{"logits": "random", "peer": "MONAI", "device": device, "ours": "native"},
        **{"contender": contender, "mode": mode, "floor_bytes": {}, "memory": {"peak": 8}},
        **{"interleaved_ms": {mode: ms}, "interleaved_iqr_ms": {mode: 0.1}},
        **{"interleaved_rounds": 5, "accuracy": {"value": 1.23456e-7}},
    }
    return {"extra_info": info, "stats": {"median": ms / 500}}


def test_a_benchmark_on_two_devices_has_two_results(tmp_path: Path) -> None:
    tests = [
        measured("Dice-cpu", "cpu", "native", "both", 2.0),
        measured("Dice-cpu", "cpu", "eager", "both", 6.0),
        measured("Dice-gpu", "cuda", "native", "both", 0.5),
    ]
    raw = {"benchmarks": tests, "provenance": PROVENANCE}
    found = compact("region_sums", raw)
    assert [result.benchmark for result in found] == ["region_sums", "region_sums_cuda"]
    assert [result.provenance["machine"] for result in found] == ["some-cpu-2t", "some-gpu"]
    assert [[case.name for case in result.cases] for result in found] == [
        ["Dice-cpu"],
        ["Dice-gpu"],
    ]
    rows = found[0].cases[0].rows
    assert {name: row.ms["both"] for name, row in rows.items()} == {"native": 2.0, "eager": 6.0}
    assert rows["native"].alone_ms == {"both": 4.0}
    assert rows["native"].accuracy == {"value": 1.235e-7}
    for result in found:
        save(result, tmp_path)
    assert sorted(load(tmp_path), key=lambda result: result.benchmark) == found
    assert [result.benchmark for result in load(tmp_path, ["some-gpu"])] == ["region_sums_cuda"]


def test_a_benchmark_on_the_cpu_alone_has_one_result() -> None:
    tests = [measured("Dice-cpu", "cpu", "native", "both", 2.0)]
    found = compact("losses", {"benchmarks": tests, "provenance": {"machine": "some-cpu-2t"}})
    assert [result.benchmark for result in found] == ["losses"]


def test_committed_results_are_of_benchmarks_that_exist() -> None:
    found = {result.benchmark for result in load(RESULTS)}
    names = {name.removesuffix("_cuda").removesuffix("_recycled") for name in found}
    assert names
    for name in names:
        assert (ROOT / "benchmarks" / f"bench_{name}.py").exists()


@begins_in("test")
def test_an_unknown_benchmark_is_an_error_that_names_all() -> None:
    command = [sys.executable, "benchmarks/run.py", "--quick", "region_sum"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no benchmark is called region_sum: there are compat, component_sums," in done.stderr
