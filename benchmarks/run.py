"""Runs all benchmarks, keeps their results, prints the tables: ``make bench``.

``--quick`` (a minute) and ``-k`` (some of the cases) only print, unless ``--output`` says where to
keep the results.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # as a script it would find only its own folder

from benchmarks import report  # noqa: E402
from benchmarks.results import RESULTS, compact, load, save  # noqa: E402


def run(path: Path, raw: Path, arguments: list[str]) -> bool:
    """Run one benchmark file; return whether all of its tests passed."""
    command = [sys.executable, "-m", "pytest", str(path.relative_to(ROOT)), "-o", "addopts="]
    command += ["--benchmark-only", "--benchmark-disable-gc", "--benchmark-quiet"]
    # pytest-benchmark's own tables mix what is published with what is not: report prints them.
    command += [f"--benchmark-json={raw}", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def main() -> int:
    """Run the benchmarks that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("-k", metavar="EXPRESSION", help="pytest's: only the tests that match")
    parser.add_argument("--output", type=Path, help="folder of results")
    parser.add_argument("names", nargs="*", help="like region_sums_cuda; all, if none is given")
    options = parser.parse_args()
    arguments = [*(["--quick"] if options.quick else []), *(["-k", options.k] if options.k else [])]
    failed = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.output or (Path(temporary) if arguments else RESULTS)
        written = set()
        for path in sorted(Path(__file__).parent.resolve().glob("bench_*.py")):
            name = path.stem.removeprefix("bench_")
            if options.names and name not in options.names:
                continue
            if name.endswith("_cuda") and not torch.cuda.is_available():
                continue
            raw = Path(temporary) / f"{name}.raw"
            if run(path, raw, arguments):
                result = compact(name, json.loads(raw.read_text()))
                save(result, folder)
                written.add(result.provenance["machine"])
            else:
                failed.append(path.name)
        print(report.full(load(folder, sorted(written))) if written else "")
    if failed:
        print(f"no results are kept of {', '.join(failed)}: some of its tests failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
