"""Drives the worker: a time limit for each call, and what a call that ended it was."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field

from tests.suite.tree import ROOT

KINDS = ("public", "raw")
LIMIT = 60.0  # seconds for one call, of which a case takes milliseconds
START = 300.0  # seconds until the first


@dataclass
class Outcomes:
    """What came of calls.

    Attributes:
        counts: How many were served, refused and by which error.
        wrong: What was wrong, with the command that makes the call again.
    """

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """The number of calls."""
        return sum(self.counts.values()) + len(self.wrong)


def drive(kind: str, first: int, last: int, limit: float = LIMIT) -> Outcomes:
    """Make the calls of these seeds, in as many processes as they end."""
    found = Outcomes()
    while first < last:
        first = _drive_one(kind, first, last, limit, found) + 1
    return found


def _drive_one(kind: str, first: int, last: int, limit: float, found: Outcomes) -> int:
    """Drive one worker; return the last seed that it began."""
    command = [sys.executable, "-m", "tests.fuzz.worker", kind, str(first), str(last)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    worker = subprocess.Popen(
        command, cwd=ROOT, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(worker, lines), daemon=True)
    reader.start()
    seed, running, said, wait = first - 1, False, [], START
    try:
        while (line := lines.get(timeout=wait)) is not None:
            if not line.startswith("{"):
                said.append(line)
                continue
            message = json.loads(line)
            if "begins" in message:
                seed, running, wait = message["begins"], True, limit
            else:
                running = False
                _note(found, kind, seed, message["outcome"])
    except queue.Empty:
        _note(found, kind, seed, f"wrong: took more than {wait:.0f} s")
        return seed
    finally:
        worker.kill()
        status = worker.wait()
        reader.join()
    if running or status not in (0, -9):
        _note(found, kind, seed, f"wrong: ended with {status}\n{''.join(said[-30:])}")
        return seed if running else last
    return last


def _read(worker: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert worker.stdout is not None
    with worker.stdout as output:
        for line in output:
            lines.put(line)
    lines.put(None)


def _note(found: Outcomes, kind: str, seed: int, outcome: str) -> None:
    if outcome.startswith("wrong"):
        again = f"python -m tests.fuzz.worker {kind} {seed} {seed + 1}"
        found.wrong.append(f"{again}\n{outcome}")
    else:
        found.counts[outcome] += 1
