"""What a stage of the device check finds: a line of JSON each, written as it comes.

A line that is there is not tried again, so that a stage that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch


class Journal:
    """The file of a stage, and what it holds.

    Args:
        path: The file; its folder is made.
        others: Files of other processes, whose lines count as well. What they tried is not tried
            again even if it failed: a device error may end the process that meets it.
    """

    def __init__(self, path: Path, others: Iterable[Path] = ()) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.found: dict[str, dict[str, Any]] = {}
        for file in others:
            self.found |= _entries(file)
        self.elsewhere = frozenset(self.found)
        self.found |= _entries(path)

    def note(self, name: str, call: Callable[..., dict[str, Any]], *of_call: Any) -> None:  # noqa: ANN401
        """Keep what ``call(*of_call)`` returns, or why it failed: no failure hides the rest."""
        if name in self.elsewhere or (name in self.found and self.found[name]["ok"]):
            return
        start = time.perf_counter()
        entry: dict[str, Any] = {"name": name, "ok": False}
        try:
            entry.update(call(*of_call))
        except Exception as error:
            entry["error"] = f"{type(error).__name__}: {str(error)[:300]}"
        entry["seconds"] = round(time.perf_counter() - start, 2)
        self.found[name] = entry
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        said = {key: value for key, value in entry.items() if key not in ("name", "ok", "kernels")}
        print("ok " if entry["ok"] else "BAD", name, said, flush=True)

    def end(self) -> int:
        """Say how many failed; return the exit status."""
        failed = [name for name, entry in self.found.items() if not entry["ok"]]
        print(f"{len(self.found)} tried, {len(failed)} failed", *failed, sep="\n  ")
        return int(bool(failed))


def _entries(path: Path) -> dict[str, dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {entry["name"]: entry for entry in map(json.loads, lines)}


def arguments(about: str) -> argparse.Namespace:
    """Read the command line: the folder of results, the device, sizes, and what is left out."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda", help="cpu tries the check itself")
    parser.add_argument("--impl", choices=("native", "triton"), help="only these kernels")
    parser.add_argument("--share", default="0/1", help="K/N: the K-th of N parts of what is tried")
    parser.add_argument("--small", action="store_true", help="sizes of a dry run")
    return parser.parse_args()


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()
