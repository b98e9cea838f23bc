"""Print where the time of a test run went: by kind, by file and by function.

    python scripts/test_durations.py build/durations.jsonl [--publish]

The file is what `pytest --durations-to` wrote; `make test-all` writes it. Seconds are those of
setup, call and teardown, added up over all workers. --publish puts the kinds into CONTRIBUTING.md.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

BEGIN, END = "<!-- durations:begin -->", "<!-- durations:end -->"
PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"
MEANING = {
    "native": "names the native kernels",
    "reference": "names the PyTorch reference",
    "auto": "takes the implementation that a user gets, or none",
    "peers": "against MONAI, segmentation-models-pytorch, kornia, nnU-Net",
    "torch_compile": "traces with torch.compile",
    "interpreted": "Triton's kernels in its interpreter",
    "shim": "CUDA C++ kernels modelled on the CPU",
    "compiled": "GPU kernels compiled by Triton, nvcc and ptxas",
    "sanitizers": "native code under the address and undefined-behaviour sanitizers",
    "install": "builds and installs the package",
    "gpu": "on a CUDA device",
}
Total = tuple[float, int]  # seconds, cases


def add_up(path: Path, key: Callable[[dict[str, str]], str]) -> list[tuple[str, Total]]:
    """Return seconds and cases by a key of the recorded lines, the longest first."""
    seconds: defaultdict[str, float] = defaultdict(float)
    cases: defaultdict[str, int] = defaultdict(int)
    for line in path.read_text().splitlines():
        record = json.loads(line)
        seconds[key(record)] += record["seconds"]
        cases[key(record)] += record["phase"] == "setup"
    return sorted(
        ((name, (seconds[name], cases[name])) for name in seconds), key=lambda item: -item[1][0]
    )


def kinds_table(path: Path) -> str:
    """Return the table of kinds in Markdown."""
    rows = add_up(path, lambda record: record["kind"])
    lines = ["| kind of test | cases | seconds | what it does |", "|---|--:|--:|---|"]
    lines += [f"| {kind} | {n} | {s:.0f} | {MEANING[kind]} |" for kind, (s, n) in rows]
    total, cases = sum(s for _, (s, _) in rows), sum(n for _, (_, n) in rows)
    lines.append(f"| all | {cases} | {total:.0f} | added up over {os.cpu_count()} workers |")
    return "\n".join(lines)


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--most", type=int, default=40, help="rows of the longer tables")
    parser.add_argument("--publish", action="store_true")
    options = parser.parse_args()
    table = kinds_table(options.path)
    print(table)
    for title, key in (
        ("file", lambda record: record["test"].split("::")[0]),
        ("function", lambda record: record["test"].split("[")[0]),
    ):
        print(f"\n{'seconds':>8} {'cases':>6}  {title}")
        for name, (seconds, cases) in add_up(options.path, key)[: options.most]:
            print(f"{seconds:8.1f} {cases:6d}  {name}")
    if options.publish:
        text = PAGE.read_text()
        before, rest = text.split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
