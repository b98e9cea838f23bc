"""Runs all benchmarks, keeps their results, prints the tables: ``make bench``.

Those of ``IN_BOTH_REGIMES`` run once in each regime of memory, the second under another name.

``--quick`` (a minute), ``-k`` (some of the cases) and ``--device`` (cpu or cuda; all that are here
without it) only print, unless ``--output`` says where to keep the results.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # as a script it would find only its own folder

from benchmarks.measure.memory import environment  # noqa: E402
from benchmarks.measure.results import RESULTS, compact, load, save  # noqa: E402
from benchmarks.tables import report  # noqa: E402

PATHS = {
    path.stem.removeprefix("bench_"): path
    for path in sorted(Path(__file__).parent.resolve().glob("bench_*.py"))
}
IN_BOTH_REGIMES = {"patches"}


def runs(names: list[str]) -> list[tuple[str, Path, str]]:
    """Return what to run of these benchmarks, or of all: name of the result, file, regime."""
    chosen = {name: path for name, path in PATHS.items() if not names or name in names}
    found = [(name, path, "default") for name, path in chosen.items()]
    again = [name for name in chosen if name in IN_BOTH_REGIMES]
    return found + [(f"{name}_recycled", PATHS[name], "recycled") for name in again]


def run(path: Path, regime: str, raw: Path, arguments: list[str]) -> bool:
    """Run one benchmark file; return whether all of its tests passed, be there any or none."""
    command = [sys.executable, "-m", "pytest", str(path.relative_to(ROOT)), "-o", "addopts="]
    command += ["--benchmark-only", "--benchmark-disable-gc", "--benchmark-quiet"]
    # pytest-benchmark's own tables mix what is published with what is not: report prints them.
    command += [f"--benchmark-json={raw}", "-p", "no:cacheprovider", *arguments]
    none_collected = pytest.ExitCode.NO_TESTS_COLLECTED
    done = subprocess.run(command, cwd=ROOT, env=environment(regime), check=False)
    return done.returncode in (0, none_collected)


def main() -> int:
    """Run the benchmarks that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("-k", metavar="EXPRESSION", help="pytest's: only the tests that match")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="only this device")
    parser.add_argument("--output", type=Path, help="folder of results")
    parser.add_argument("names", nargs="*", help="like region_sums; all, if none is given")
    options = parser.parse_args()
    unknown = set(options.names) - PATHS.keys()
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}: there are {', '.join(PATHS)}")
    arguments = ["--quick"] if options.quick else []
    arguments += ["-k", options.k] if options.k else []
    arguments += ["--device", options.device] if options.device else []
    failed = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.output or (Path(temporary) if arguments else RESULTS)
        written = set()
        for name, path, regime in runs(options.names):
            raw = Path(temporary) / f"{name}.raw"
            if not run(path, regime, raw, arguments):
                failed.append(name)
            elif raw.exists():  # not if it has no case that was asked for
                for result in compact(name, json.loads(raw.read_text())):
                    save(result, folder)
                    written.add(result.provenance["machine"])
        print(report.full(load(folder, sorted(written))) if written else "")
    if failed:
        print(f"no results are kept of {', '.join(failed)}: some of its tests failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
