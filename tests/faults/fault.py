"""What a fault is, and when it can be planted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """One wrong change of the source, and the tests that should fail for it.

    Attributes:
        name: What it is called in the report, and on the command line.
        file: That it changes, from the root of the tree.
        old: The text that it replaces, which must occur there once.
        new: The text that it puts there.
        tests: Arguments of pytest: test files, and a choice of their tests.
        tier: The first tier in which a test must fail, "test" or "all".
        interpreted: Whether Triton's interpreter runs the tests.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    tier: str = "test"
    interpreted: bool = False

    @property
    def paths(self) -> list[str]:
        """The test files among the arguments of pytest."""
        return [argument for argument in self.tests if argument.startswith("tests/")]


def problems(faults: Sequence[Fault], root: Path) -> Iterator[str]:
    """Yield a line for each reason why faults cannot be planted in the tree."""
    for name, count in Counter(fault.name for fault in faults).items():
        if count > 1:
            yield f"{name}: {count} faults have this name"
    for fault in faults:
        if fault.tier not in ("test", "all"):
            yield f"{fault.name}: there is no tier {fault.tier!r}, only 'test' and 'all'"
        for path in (fault.file, *fault.paths):
            if not (root / path).is_file():
                yield f"{fault.name}: there is no file {path}"
        if not fault.paths:
            yield f"{fault.name}: it names no test files"
        if (root / fault.file).is_file():
            count = (root / fault.file).read_text().count(fault.old)
            if count != 1:
                yield f"{fault.name}: its text occurs {count} times in {fault.file}, not once"
