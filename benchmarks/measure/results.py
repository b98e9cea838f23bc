"""The committed results: one small JSON file per machine and benchmark, without raw data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# What extra_info says of a case, whoever runs it.
SAME = ("loss", "shape", "dtype", "logits", "peer", "device", "ours", "floor_bytes")
RESULTS = Path(__file__).resolve().parents[1] / "results"


@dataclass
class Row:
    """What was found about one contender in one case.

    Attributes:
        ms: Median per mode, interleaved with the other contenders.
        iqr_ms: Interquartile range per mode.
        rounds: How many rounds these are of.
        wall_ms: On a device, where ``ms`` is its own time: what the host sees of an eager step.
        alone_ms: Median per mode under pytest-benchmark, one contender after another.
        memory: Bytes above inputs and gradient: ``saved`` between forward and backward, ``peak``.
        accuracy: Errors against float64: ``value``, ``grad_l2``, ``grad_max``.
    """

    ms: dict[str, float] = field(default_factory=dict)
    iqr_ms: dict[str, float] = field(default_factory=dict)
    rounds: int = 0
    wall_ms: dict[str, float] = field(default_factory=dict)
    alone_ms: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)


@dataclass
class Case:
    """One case and its contenders, in the order of the tables.

    Attributes:
        name: Identifier.
        loss: Name of the loss.
        shape: ``[B, C, *S]``.
        dtype: Name of the input's dtype.
        logits: Kind of logits, or of mask.
        peer: Whose the contender ``eager`` is, or another contender.
        device: ``"cpu"`` or ``"cuda"``.
        ours: The contender that impl="auto" takes.
        floor_bytes: Per mode, what no kernel can avoid to move.
        rows: By contender.
    """

    name: str
    loss: str
    shape: list[int]
    dtype: str
    logits: str
    peer: str
    device: str = "cpu"
    ours: str = "native"
    floor_bytes: dict[str, int] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)


@dataclass
class Result:
    """One run of one benchmark file on one device."""

    benchmark: str
    provenance: dict[str, str]
    cases: list[Case]


def compact(benchmark: str, raw: Mapping[str, Any]) -> list[Result]:
    """Condense pytest-benchmark's JSON; return a result per device.

    Args:
        benchmark: Name of the benchmark; its result on a CUDA device is ``<benchmark>_cuda``, and
            its machine is that device.
        raw: The JSON, whose ``extra_info`` is as compare.py writes it.
    """
    provenance = dict(raw["provenance"])
    on_device = {**provenance, "machine": provenance.get("gpu_machine", "")}
    cases = _cases(raw)
    found = [
        Result(benchmark, provenance, [case for case in cases if case.device == "cpu"]),
        Result(f"{benchmark}_cuda", on_device, [case for case in cases if case.device == "cuda"]),
    ]
    return [result for result in found if result.cases]


def _cases(raw: Mapping[str, Any]) -> list[Case]:
    cases: dict[str, Case] = {}
    for test in raw["benchmarks"]:
        info = test["extra_info"]
        name = info["case"]
        same = {key: info[key] for key in SAME}
        row = cases.setdefault(name, Case(name, **same)).rows.setdefault(info["contender"], Row())
        row.ms = {name: _short(ms) for name, ms in info["interleaved_ms"].items()}
        row.iqr_ms = {name: _short(ms) for name, ms in info["interleaved_iqr_ms"].items()}
        row.rounds = info["interleaved_rounds"]
        row.wall_ms = {name: _short(ms) for name, ms in info.get("wall_ms", {}).items()}
        row.alone_ms[info["mode"]] = _short(1e3 * test["stats"]["median"])
        row.memory = info["memory"]
        row.accuracy = {key: _short(error) for key, error in info["accuracy"].items()}
    return list(cases.values())


def _short(number: float) -> float:
    return float(f"{number:.4g}")


def save(result: Result, folder: Path) -> Path:
    """Write a result to ``folder/<machine>/<benchmark>.json``; return the path."""
    path = folder / result.provenance["machine"] / f"{result.benchmark}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = asdict(result)
    for row in (row for case in raw["cases"] for row in case["rows"].values()):
        if not row["wall_ms"]:  # on the CPU there is one time
            del row["wall_ms"]
    path.write_text(json.dumps(raw, indent=1) + "\n")
    return path


def load(folder: Path, machines: Sequence[str] = ()) -> list[Result]:
    """Read all results in the folder, or those of some machines."""
    found = []
    for path in sorted(folder.glob("*/*.json")):
        if not machines or path.parent.name in machines:
            raw = json.loads(path.read_text())
            cases = [
                Case(**{**case, "rows": {name: Row(**row) for name, row in case["rows"].items()}})
                for case in raw["cases"]
            ]
            found.append(Result(raw["benchmark"], raw["provenance"], cases))
    return found
