"""The check of a device, scripts/gpu_check.sh, tried on the CPU: its stages, and what they keep."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import setup
from segloss_fast._native import _C
from tests.conftest import ROOT
from tests.gpu.check.journal import Journal
from tests.gpu.check.smoke import Share
from tests.suite.tiers import begins_in

IMPLS = ("native", "triton", "auto")
STAGES = ("smoke", "time", "tests", "sanitize")


def check(folder: Path, *stages: str) -> subprocess.CompletedProcess[str]:
    """Run stages on the CPU."""
    env = {**os.environ, "PYTHON": sys.executable, "DEVICE": "cpu", "WORKERS": "0", "SHARES": "2"}
    command = ["bash", "scripts/gpu_check.sh", str(folder), *stages]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@begins_in("all")
@pytest.mark.skipif(_C is None, reason="the last stage is one of the native kernels")
def test_every_stage_runs_and_is_not_repeated(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    done = check(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    smoke, times = entries(tmp_path / "smoke.jsonl"), entries(tmp_path / "times.jsonl")
    assert len(smoke) > 40
    assert all(entry["error"] <= entry["budget"] for entry in smoke if "error" in entry)
    assert all(entry["kernels"] and entry["wall_ms"] > 0 for entry in times)
    assert "cut off" not in done.stdout
    again = check(tmp_path)
    assert again.stdout.count("has passed") == len(STAGES)


def test_an_unknown_stage_is_an_error(tmp_path: Path) -> None:
    done = check(tmp_path, "smok")
    assert done.returncode == 2
    assert "unknown stage: smok" in done.stdout


def test_a_failure_is_kept_and_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def fail() -> dict[str, Any]:
        calls.append("fail")
        raise RuntimeError("an illegal memory access")

    def succeed() -> dict[str, Any]:
        calls.append("succeed")
        return {"ok": True, "error": 1e-7}

    for _ in range(2):  # the second time as after a stop
        journal = Journal(tmp_path / "found.jsonl")
        journal.note("one", fail)
        journal.note("other", succeed)
        assert journal.end() == 1
    assert calls == ["fail", "succeed", "fail"]
    kept = entries(tmp_path / "found.jsonl")
    assert [entry["name"] for entry in kept] == ["one", "other", "one"]
    assert kept[0]["error"] == "RuntimeError: an illegal memory access"
    assert "2 tried, 1 failed" in capsys.readouterr().out


def test_shares_try_everything_once_and_the_last_call_nothing_again(tmp_path: Path) -> None:
    names = [f"{loss} {impl} C={place}" for place, loss in enumerate("abcdefg") for impl in IMPLS]
    tried: list[str] = []

    def attempt(name: str) -> dict[str, Any]:
        tried.append(name)
        return {"ok": True}

    def share(text: str, impl: str | None = None) -> None:
        options = argparse.Namespace(folder=tmp_path, share=text, impl=impl)
        journal = Share(options)
        for name in names:
            journal.note(name, attempt, name)

    for place in range(3):
        share(f"{place}/3", "triton")
    assert sorted(tried) == [name for name in sorted(names) if "triton" in name]
    share("0/1")
    assert sorted(tried) == sorted(names)
    share("0/1")
    assert len(tried) == len(names)


def test_what_another_process_failed_at_is_not_tried_again(tmp_path: Path) -> None:
    def fail() -> dict[str, Any]:
        raise RuntimeError("an illegal memory access")

    other = tmp_path / "smoke-0.jsonl"
    Journal(other).note("one", fail)
    journal = Journal(tmp_path / "smoke.jsonl", [other])
    journal.note("one", lambda: {"ok": True})
    assert journal.end() == 1
    assert not (tmp_path / "smoke.jsonl").exists()


def test_architectures_are_named_as_nvcc_wants_them() -> None:
    assert list(setup.cuda_targets(setup.CUDA_ARCHITECTURES)) == ["sm_80", "sm_90", "compute_90"]
    assert setup.cuda_targets("90a") == {"sm_90a": "-gencode=arch=compute_90a,code=sm_90a"}
    for bad in ("sm_90", "9.0", "90+ptx", " "):
        with pytest.raises(ValueError, match="SEGLOSS_CUDA_ARCHITECTURES"):
            setup.cuda_targets(bad)
