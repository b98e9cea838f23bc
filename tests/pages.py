"""The pages that users read, as tests see them: their blocks of code, links, headings, tables."""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        language: What stands behind the fence.
        code: Its lines, without what they are indented by.
        line: Number of its first line in the page.
    """

    language: str
    code: str
    line: int


def blocks(page: Path) -> list[Block]:
    """Return the blocks of code of a page."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[2], textwrap.dedent(found[3]), text.count("\n", 0, found.start(3)) + 1)
        for found in FENCE.finditer(text)
    ]


def heading(page: Path, line: int) -> str:
    """Return the last heading above a line, but for the page's title."""
    above = page.read_text(encoding="utf-8").splitlines()[: line - 1]
    return next((text.lstrip("# ") for text in reversed(above) if re.match("##+ ", text)), "")


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def run(page: Path, names: dict[str, Any]) -> None:
    """Run the page's blocks of Python one after another, as lines of the page.

    What a comment behind a call of print says must be what it prints.
    """
    for block in blocks(page):
        if block.language == "python":
            code = "\n" * (block.line - 1) + block.code
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(code, str(page), "exec"), names)
            said = re.findall(r"^ *print\(.*\)  # (.+)$", block.code, re.MULTILINE)
            assert not said or said == out.getvalue().splitlines()


def tensors() -> dict[str, Any]:
    """Return the small tensors that the examples on the pages take for granted.

    ``logits`` ``[2, 4, 16, 16, 16]`` and ``labels`` ``[2, 1, 16, 16, 16]`` of four classes, logits
    of a decoder's smaller levels, a ``mask`` ``[1, 2, 16, 16, 16]``, and what nnU-Net has for three
    regions and an ignore label: ``region_logits``, and a ``target`` of four channels.
    """
    torch.manual_seed(0)
    side = 16
    return {
        "logits": torch.randn(2, 4, side, side, side, requires_grad=True),
        "half_size": torch.randn(2, 4, 8, 8, 8, requires_grad=True),
        "quarter_size": torch.randn(2, 4, 4, 4, 4, requires_grad=True),
        "labels": torch.randint(0, 4, (2, 1, side, side, side)),
        "mask": torch.rand(1, 2, side, side, side) < 0.3,
        "region_logits": torch.randn(2, 3, side, side, side, requires_grad=True),
        "target": torch.rand(2, 4, side, side, side) < 0.3,
    }


def tables(page: Path, heading: str) -> list[list[str]]:
    """Return the rows of the tables below a heading of the second level, without their heads."""
    _, _, section = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    section = section.partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    heads = {place - 1 for place, row in enumerate(rows) if set("".join(row)) <= set("-|")}
    return [row for place, row in enumerate(rows) if place not in heads and place - 1 not in heads]
