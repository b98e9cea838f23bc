"""How many random calls each drop-in is tried on: ``python -m tests.compat.counts``.

``--publish`` writes the table into docs/compat.md.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.compat.grid import Drop
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "compat.md"
BEGIN, END = "<!-- calls:begin -->", "<!-- calls:end -->"


def drops() -> Iterator[tuple[str, str, Drop]]:
    """Yield peer, name and comparison of all that the tests try."""
    for path in sorted(Path(__file__).parent.glob("test_*_*.py")):
        module = importlib.import_module(f"tests.compat.{path.stem}")
        found = [value for value in vars(module).values() if isinstance(value, dict)]
        for table in found:
            for name, drop in table.items():
                if isinstance(drop, Drop):
                    yield path.stem.split("_")[1], name, drop


def calls() -> dict[tuple[str, str], int]:
    """Return the number of calls by peer and name."""
    counted: Counter[tuple[str, str]] = Counter()
    seen = set()  # tables that several modules import count once
    for peer, name, drop in drops():
        if id(drop) not in seen:
            counted[peer, name] += drop.cases
            seen.add(id(drop))
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def table() -> str:
    """Return the table in Markdown, a row per peer and number of calls."""
    rows: dict[tuple[str, int], list[str]] = {}
    for (peer, name), cases in calls().items():
        rows.setdefault((peer, cases), []).append(f"`{name}`")
    lines = [
        f"| `compat.{peer}` | {cases} | {', '.join(names)} |"
        for (peer, cases), names in sorted(rows.items(), key=lambda row: (row[0][0], -row[0][1]))
    ]
    total = f"| all | {sum(calls().values())} | {len(calls())} classes and functions |"
    return "\n".join(["| module | random calls of each | of |", "|---|--:|---|", *lines, total])


def main() -> None:
    """Print the table, and publish it if asked."""
    found = table()
    print(found)
    if "--publish" in sys.argv[1:]:
        text = PAGE.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        after = rest.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n{found}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
