"""A C++ compiler that keeps the object files of this source tree, for tests that install it.

The tree is compiled once, however often and wherever a copy of it is built: not at all where it was
built itself. Tests write a program that calls :func:`main`; this module imports nothing that takes
time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def main(compiler: str, folders: list[Path], flags: list[str]) -> None:
    """Be the compiler.

    Args:
        compiler: The one that compiles.
        folders: Where object files of the same sources may lie; the first one gets new ones.
        flags: More of the compiler's, at the end.
    """
    arguments = sys.argv[1:]
    sources = [name for name in arguments if "/csrc/" in name and name.endswith(".cpp")]
    if "-c" not in arguments or len(sources) != 1:
        os.execv(compiler, [compiler, *arguments])
    output = Path(arguments[arguments.index("-o") + 1])
    name = Path(sources[0].rpartition("/csrc/")[2]).with_suffix(".o")
    found = next((folder / name for folder in folders if (folder / name).exists()), None)
    if found is not None:
        shutil.copy(found, output)
        if "-MF" in arguments:  # which files the object depends on: none that change
            Path(arguments[arguments.index("-MF") + 1]).write_text(f"{output}:\n")
        return
    done = subprocess.run([compiler, *arguments, *flags], check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)
    kept = folders[0] / name
    kept.parent.mkdir(parents=True, exist_ok=True)
    new = kept.with_suffix(f".{os.getpid()}")
    shutil.copy(output, new)
    new.replace(kept)  # in one step: others may look for it now
