"""Sizes that keep the code readable: files of about 300 lines, functions of 50, kernels of 80."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("segloss_fast", "csrc", "tests", "benchmarks", "examples", "scripts")
SUFFIXES = {".py", ".cpp", ".h", ".inc", ".cu", ".cuh"}
FILE_LINES, FUNCTION_LINES, KERNEL_LINES = 300, 50, 80


def sources() -> list[Path]:
    return [
        path
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in SUFFIXES
    ]


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in sources()}
    assert len(lengths) > 40
    assert {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > FILE_LINES} == {}


def test_functions_are_short() -> None:
    long = {}
    for path in (path for path in sources() if path.suffix == ".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            is_kernel = any("triton.jit" in ast.unparse(d) for d in node.decorator_list)
            if lines > (KERNEL_LINES if is_kernel else FUNCTION_LINES):
                long[f"{path.relative_to(ROOT)}:{node.name}"] = lines
    assert long == {}
