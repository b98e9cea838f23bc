"""The numbers that Python gives to names are those of the enums in csrc, on the CPU and on GPUs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest

from segloss_fast.ops._formula.program import OPERATIONS
from segloss_fast.ops._voxels.maps import ACTIVATIONS
from segloss_fast.ops.component_sums import TERMS as COMPONENT_TERMS
from segloss_fast.ops.distance_transform.reference import SIDES
from segloss_fast.ops.lovasz.options import ACTIVATIONS as LOVASZ_ACTIVATIONS
from segloss_fast.ops.region_masks.reference import MODES
from segloss_fast.ops.region_sums.options import TERMS
from tests.nvcc import CSRC

ENUMS: dict[tuple[str, str], Sequence[str]] = {
    ("region_sums/kernels.h", "Term"): (*TERMS, "term_count"),
    ("component_sums/kernels.h", "Term"): (*COMPONENT_TERMS, "term_count"),
    ("voxels/view.h", "Activation"): ACTIVATIONS,
    ("lovasz/kernels.h", "Activation"): LOVASZ_ACTIVATIONS,
    ("distance_transform/kernels.h", "Side"): SIDES,
    ("region_masks/kernels.h", "Mode"): MODES,
    ("formula/program.h", "Operation"): (*OPERATIONS, "count"),
}
TRITON: dict[str, Sequence[str]] = {
    "region_sums.triton_activations": ACTIVATIONS,
    "region_sums.triton_terms": TERMS,
    "lovasz.triton_errors": LOVASZ_ACTIVATIONS,
    "region_masks.triton_kernels": MODES[:2],
    "_formula.triton_kernels": OPERATIONS,
}
# Enums of names that Python does not pass.
OWN = {"Cost", "CpuCapability", "Dtype", "Needs", "Neighbour", "Number", "Reading", "Special"}


def enums_of(path: Path) -> dict[str, list[str]]:
    """Return each enum's names in the order of their numbers, in Python's spelling."""
    text = re.sub(r"//[^\n]*", "", path.read_text())
    found = {}
    for name, body in re.findall(r"\benum (?:class )?(\w+)[^{;]*\{([^}]*)\}", text):
        entries = [entry.strip() for entry in body.split(",") if entry.strip()]
        for number, entry in enumerate(entries):
            if name not in OWN and "=" in entry:
                assert int(entry.split("=")[1]) == number, (path, entry)
        names = [re.sub(r"(?<!^)(?=[A-Z])", "_", entry.split()[0][1:]) for entry in entries]
        found[name] = [entry.lower() for entry in names]
    return found


@pytest.mark.parametrize(("path", "name"), ENUMS, ids=":".join)
def test_enums_of_csrc_are_the_tuples_of_python(path: str, name: str) -> None:
    assert enums_of(CSRC / path)[name] == list(ENUMS[path, name])


def test_no_enum_is_forgotten() -> None:
    found = {
        (str(path.relative_to(CSRC)), name)
        for pattern in ("*.h", "*.cuh", "*.inc", "*.cpp", "*.cu")
        for path in sorted(CSRC.rglob(pattern))
        for name in enums_of(path)
        if name not in OWN
    }
    assert found == set(ENUMS)


@pytest.mark.parametrize("module", TRITON)
def test_constants_of_triton_are_the_tuples_of_python(module: str) -> None:
    pytest.importorskip("triton")
    found = import_module(f"segloss_fast.ops.{module}")
    names = TRITON[module]
    assert [getattr(found, name.upper()).value for name in names] == list(range(len(names)))
