"""A C++ compiler that keeps the object files of this source tree, for tests that install it.

The tree is compiled once, however often and wherever a copy of it is built. Tests write a program
that calls :func:`main`; this module imports nothing that takes time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def main(compiler: str, objects: Path, flags: list[str]) -> None:
    """Be the compiler.

    Args:
        compiler: The one that compiles.
        objects: The folder of what was compiled before, from the same sources.
        flags: More of the compiler's, at the end.
    """
    arguments = sys.argv[1:]
    sources = [name for name in arguments if "/csrc/" in name and name.endswith(".cpp")]
    if "-c" not in arguments or len(sources) != 1:
        os.execv(compiler, [compiler, *arguments])
    output = Path(arguments[arguments.index("-o") + 1])
    kept = objects / f"{sources[0].rpartition('/csrc/')[2]}.o"
    if kept.exists():
        shutil.copy(kept, output)
        if "-MF" in arguments:  # which files the object depends on: none that change
            Path(arguments[arguments.index("-MF") + 1]).write_text(f"{output}:\n")
        return
    done = subprocess.run([compiler, *arguments, *flags], check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)
    kept.parent.mkdir(parents=True, exist_ok=True)
    new = kept.with_suffix(f".{os.getpid()}")
    shutil.copy(output, new)
    new.replace(kept)  # in one step: others may look for it now
