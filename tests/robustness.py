"""Tries the faults of docs/robustness.md, and writes there what happened.

python -m tests.robustness [--publish]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys

from tests.fuzz.drive import KINDS, Outcomes, drive
from tests.suite.tree import ROOT
from tests.test_peer_failures import FAILURES

PAGE = ROOT / "docs" / "robustness.md"
BEGIN, END = "<!-- robustness:begin -->\n", "<!-- robustness:end -->\n"
FIRST = 10**7  # of seeds, which are others than those of the suite
CALLS = 3000  # of each kind


def pytest(*options: str) -> str:
    """Run tests; return all that they and pytest said, of tests that passed, too."""
    command = [sys.executable, "-m", "pytest", "-rA", "-q", *options]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True).stdout


def sanitize() -> list[str]:
    """Run all that `make sanitize` does; return rows of the table."""
    said = pytest("--tier=hand", "-m", "sanitizers")
    failed = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if failed:
        print(said)
    happened = f"**{len(failed)} tests fail**" if failed else "no finding"
    kinds = {
        "fuzzers under the sanitizers of addresses and undefined behaviour, of CPU kernels on each "
        "instruction set": r"(?:^|: )no finding$",
        "drivers under the sanitizer of threads, on each instruction set": r"bytes of results$",
    }
    return [
        f"| {what} | {len(re.findall(line, said, re.MULTILINE))} | {happened} |"
        for what, line in kinds.items()
    ]


def survive() -> dict[str, bool]:
    """Run the tests of the failures of peers; return which passed, by name."""
    passed: dict[str, bool] = {}
    for line in pytest("--tier=all", "tests/test_peer_failures.py").splitlines():
        word, _, rest = line.partition(" ")
        if word in ("PASSED", "FAILED", "ERROR") and "::" in rest:
            name = rest.split("::")[1].split("[")[0].split(" ")[0]
            passed[name] = passed.get(name, True) and word == "PASSED"
    return passed


def table(found: dict[str, Outcomes], sanitized: list[str], passed: dict[str, bool]) -> str:
    """Return what is published."""
    lines = ["| tried | how often | what happened |", "|---|--:|---|"]
    for kind, title in zip(
        KINDS, ("random public calls", "changed calls of raw operators"), strict=True
    ):
        outcomes = found[kind]
        refused = sum(n for name, n in outcomes.counts.items() if name != "served")
        said = f"{outcomes.counts['served']} served, {refused} refused with an error that says why"
        if kind == "raw":
            said = said.replace(" that says why", "")
        lines.append(f"| {title} | {outcomes.tried} | {said}, {len(outcomes.wrong)} wrong |")
    lines += sanitized
    survived = sum(passed.get(test, False) for _, _, test in FAILURES)
    failures = f"| public failures of other libraries, on the CPU | {len(FAILURES)} |"
    lines.append(f"{failures} {survived} do not happen here |")
    lines += ["", "| reported of another library | what fails there | here |", "|---|---|---|"]
    for report, what, test in sorted(FAILURES, key=lambda each: each[0].lower()):
        verdict = "passes" if passed.get(test, False) else "**fails**"
        lines.append(f"| {report} | {what} | `{test}` {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Try everything; return 1 if something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.robustness", description=__doc__)
    parser.add_argument("--publish", action="store_true", help="write the table to the page")
    parser.add_argument("--calls", type=int, default=CALLS, help="random calls of each kind")
    chosen = parser.parse_args()
    found = {kind: drive(kind, FIRST, FIRST + chosen.calls) for kind in KINDS}
    text = table(found, sanitize(), survive())
    if chosen.publish:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{text}{END}{rest.partition(END)[2]}")
    else:
        print(text)
    wrong = [each for outcomes in found.values() for each in outcomes.wrong]
    print("\n\n".join(wrong))
    return int(bool(wrong) or "**" in text)


if __name__ == "__main__":
    sys.exit(main())
