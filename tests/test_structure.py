"""What may import what: no primitive another one, and nobody the inside of a primitive."""

from __future__ import annotations

import re
from pathlib import Path

import segloss_fast
from segloss_fast import ops
from tests.conftest import ROOT

PACKAGE, NATIVE = Path(segloss_fast.__file__).parent, ROOT / "csrc"
PRIMITIVES = {path.parent.name for path in PACKAGE.glob("ops/[a-z]*/__init__.py")}
IMPORT = re.compile(r"^\s*(?:from|import) segloss_fast\.ops(?:\.| import )(\w+)(\.\w+)?", re.M)
INCLUDE = re.compile(r'^#include "(\w+)/', re.M)
SUFFIXES = {".py", ".h", ".inc", ".cpp", ".cu", ".cuh"}


def test_no_primitive_imports_another_one() -> None:
    """In any language; what they share is in folders of its own."""
    assert set(ops.PRIMITIVES) == PRIMITIVES
    for name in PRIMITIVES:
        found = {part for part, _ in IMPORT.findall(text(PACKAGE / "ops" / name))}
        found |= set(INCLUDE.findall(text(NATIVE / name)))
        assert found & PRIMITIVES == {name}
    for home in (PACKAGE / "ops").glob("_*"):
        assert not PRIMITIVES & {part for part, _ in IMPORT.findall(text(home))}
    assert not PRIMITIVES & set(INCLUDE.findall(text(NATIVE / "voxels")))


def test_losses_take_what_a_primitive_offers() -> None:
    for part, inner in IMPORT.findall(text(PACKAGE / "losses") + text(PACKAGE / "compat")):
        assert not inner or part not in PRIMITIVES, part + inner


def text(place: Path) -> str:
    files = place.rglob("*") if place.is_dir() else [place]
    return "\n".join(path.read_text() for path in files if path.suffix in SUFFIXES)
