"""Copies the source tree: to install it, to plant faults in it, to test it without native kernels.

As a program it copies the tree into the folder that it is given, which it empties first.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def copy_tree(target: Path) -> None:
    """Copy what git tracks or would add; what was built stays behind."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    for name in filter(None, listing.stdout.split("\0")):
        if (ROOT / name).is_file():  # tracked, but perhaps deleted in the working tree
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


if __name__ == "__main__":
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    copy_tree(Path(sys.argv[1]))
