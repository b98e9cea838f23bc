"""Plants the faults of the catalogue one by one, and reports which tests catch them."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.faults.catalogue import FAULTS
from tests.faults.catalogue_native import NATIVE_FAULTS
from tests.faults.fault import Fault, problems
from tests.faults.planting import FOLDER, BrokenError, Copy

ALL_FAULTS = (*FAULTS, *NATIVE_FAULTS)
RESULTS = Path(__file__).with_name("RESULTS.md")
HEAD = """# The planted faults, and what caught them

`python -m tests.faults --publish` writes this: the first test that failed, the tier in which it
did, and the seconds for building the copy with the fault and testing it.
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a fault.

    Attributes:
        fault: Which one.
        test: The first test that failed, or None.
        tier: The tier in which it did, or the last that was tried.
        broken: Why the fault tells nothing, or None.
        seconds: For building and testing.
    """

    fault: Fault
    test: str | None
    tier: str
    broken: str | None
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether the fault was caught where it should be."""
        return self.broken is None and self.test is not None and self.tier == self.fault.tier

    @property
    def verdict(self) -> str:
        """What to say of it."""
        if self.broken is not None:
            return "BROKEN"
        if self.test is None:
            return "NOT CAUGHT"
        return f"`{self.test}`" if self.is_good else f"only in tier {self.tier}: `{self.test}`"


def attempt(copy: Copy, fault: Fault) -> Outcome:
    """Plant a fault, and run its tests tier by tier until one fails."""
    begun, test, tier, broken = time.monotonic(), None, fault.tier, None
    try:
        copy.plant(fault)
        copy.build()
        for tier in ("test", "all") if fault.tier == "test" else ("all",):
            test = copy.failed_test(fault, tier)
            if test is not None:
                break
    except BrokenError as error:
        broken = str(error)
    return Outcome(fault, test, tier, broken, time.monotonic() - begun)


def doubted(outcomes: Sequence[Outcome], clean: Copy) -> list[Outcome]:
    """Return the outcomes, broken where the test that failed does so without a fault, too."""
    failures: set[str] = set()
    for interpreted in (False, True):
        caught = [o.test for o in outcomes if o.test and o.fault.interpreted == interpreted]
        if caught:
            failures |= clean.failures(sorted(set(caught)), interpreted=interpreted)
    return [
        replace(o, broken=f"{o.test} fails without the fault, too") if o.test in failures else o
        for o in outcomes
    ]


def row(found: Outcome) -> str:
    """Return an outcome as a row of Markdown."""
    # A bar, as in ids of parameters, would end the cell.
    cells = [found.fault.name, f"`{found.fault.file}`", found.verdict.replace("|", "\\|")]
    return f"| {' | '.join([*cells, found.tier, f'{found.seconds:.0f}'])} |"


def report_of(rows: Sequence[str]) -> str:
    """Return the table of rows, and how many tell of a fault caught as expected."""
    tiers = {fault.name: fault.tier for fault in ALL_FAULTS}
    good, early, seconds = 0, 0, 0
    for one in rows:
        name, _, verdict, *_, tier, time_taken = one.strip("| ").split(" | ")
        good += verdict.startswith("`") and tier == tiers[name]
        early += verdict.startswith("`") and tier == "test"
        seconds += int(time_taken)
    head = ["| fault | file | caught by | tier | seconds |", "|---|---|---|---|---|"]
    summary = (
        f"{good} of {len(rows)} faults were caught as expected, {early} of them by what "
        f"`make test` runs, in {seconds / 60:.0f} minutes of machines that did other things, too."
    )
    return "\n".join([*head, *rows, "", summary, ""])


def with_published(found: Sequence[Outcome]) -> list[str]:
    """Return the rows of outcomes, and of the other faults the rows that are published."""
    rows = {one.fault.name: row(one) for one in found}
    for line in RESULTS.read_text().splitlines() if RESULTS.exists() else ():
        rows.setdefault(line.strip("| ").partition(" | ")[0], line)
    return [rows[fault.name] for fault in ALL_FAULTS if fault.name in rows]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; exit where it names faults that there are not."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of faults; all if there is none")
    parser.add_argument(
        "--clean", action="store_true", help="run the faults' tests, in tier test, without a fault"
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help=f"write {RESULTS.name}, and leave other faults as they are",
    )
    options = parser.parse_args(arguments)
    known = {fault.name for fault in ALL_FAULTS}
    if unknown := [name for name in options.names if name not in known]:
        parser.error(
            f"there is no fault {', '.join(unknown)}; there are {', '.join(sorted(known))}"
        )
    return options


def main(arguments: Sequence[str]) -> int:
    """Plant the faults that are asked for; return 0 if all were caught where they should be."""
    options = parse(arguments)
    faults = [fault for fault in ALL_FAULTS if not options.names or fault.name in options.names]
    begun, copy = time.monotonic(), Copy("tree")
    copy.refresh()
    if reasons := list(problems(faults, copy.root)):
        print("\n".join(reasons))
        return 1
    try:
        copy.build()
    except BrokenError as error:
        print(error)
        return 1
    print(f"the copy is built, {time.monotonic() - begun:.0f} s", flush=True)
    if options.clean:
        return 0 if copy.passes(sorted({path for fault in faults for path in fault.paths})) else 1
    clean, outcomes = copy.twin("clean"), []
    for number, fault in enumerate(faults, start=1):
        found = attempt(copy, fault)
        outcomes.append(found)
        said = f"[{number}/{len(faults)}] {fault.name}: {found.verdict}"
        print(f"{said}, tier {found.tier}, {found.seconds:.0f} s", flush=True)
    copy.plant(None)
    outcomes = doubted(outcomes, clean)
    for found in outcomes:
        if found.broken is not None:
            print(f"{found.fault.name} is broken: {found.broken}")
    good = sum(found.is_good for found in outcomes)
    report = report_of([row(found) for found in outcomes])
    (FOLDER / "report.md").write_text(report)
    if options.publish:
        RESULTS.write_text(f"{HEAD}\n{report_of(with_published(outcomes))}")
    print(f"\n{report}", end="")
    return 0 if good == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
