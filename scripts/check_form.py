"""Check the sizes that keep the code readable: part of `make check`, because it needs no test run.

Files have at most 300 lines, functions 50, Triton kernels 80.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("segloss_fast", "csrc", "tests", "benchmarks", "examples", "scripts")
SUFFIXES = {".py", ".cpp", ".h", ".inc", ".cu", ".cuh"}
FILE_LINES, FUNCTION_LINES, KERNEL_LINES = 300, 50, 80


def sources() -> list[Path]:
    """Return the code files of the project."""
    found = [
        path
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in SUFFIXES
    ]
    return [*found, ROOT / "setup.py"]


def long_functions(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, lines and allowed lines of the functions that are too long.

    Their bodies are counted, without the docstring.
    """
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) else node.body
        lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
        is_kernel = any("triton.jit" in ast.unparse(d) for d in node.decorator_list)
        allowed = KERNEL_LINES if is_kernel else FUNCTION_LINES
        if lines > allowed:
            yield node.name, lines, allowed


def problems() -> Iterator[str]:
    """Yield a line for each file and function that is too long."""
    paths = sources()
    if len(paths) < 100:
        yield f"only {len(paths)} code files were found below {ROOT}"
    for path in paths:
        name, text = path.relative_to(ROOT), path.read_text()
        lines = len(text.splitlines())
        if lines > FILE_LINES:
            yield f"{name}: {lines} lines; a file has at most {FILE_LINES}"
        if path.suffix == ".py":
            for function, length, allowed in long_functions(text):
                yield f"{name}: {function} has {length} lines; at most {allowed} are allowed"


def main() -> int:
    """Print what is too long; return 1 if anything is."""
    found = list(problems())
    print("\n".join(found) if found else f"{len(sources())} files: all lengths are within limits")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
