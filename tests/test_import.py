"""What importing the package costs and needs, and what a pure-Python install says of itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, run_python
from tests.suite import tracing
from tests.suite.tiers import begins_in

COST = """
import json, sys, time, torch
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
modules, memory, start = set(sys.modules), resident(), time.perf_counter()
import segloss_fast
seconds = time.perf_counter() - start
print(json.dumps([sorted(set(sys.modules) - modules), resident() - memory, seconds]))
"""
# As python -m segloss_fast -v.
VERDICT = """
import runpy, sys
sys.argv = ["segloss_fast", "-v"]
runpy.run_module("segloss_fast", run_name="__main__")
"""
LARGE = """
import warnings
warnings.simplefilter("always")
import torch, segloss_fast
loss = segloss_fast.DiceLoss()
for size in (8, 256, 256):
    loss(torch.randn(1, 2, size, size), torch.zeros(1, size, size))
"""


def in_root(*arguments: str, folder: Path = ROOT) -> str:
    """Run an interpreter that finds this copy of the package; return what it said."""
    environ = {"PYTHONPATH": str(ROOT), **tracing.variables()}
    done = run_python(*arguments, folder=folder, **environ)
    assert done.returncode == 0, done.stdout
    return done.stdout


@begins_in("test")
def test_import_leaves_setuptools_as_it_was() -> None:
    """Which a search for pip would not: see segloss_fast/_install.py."""
    code = "from segloss_fast import _install; _install.why_pure(); import setuptools"
    in_root("-W", "error", "-c", code)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_import_is_light() -> None:
    modules, memory, seconds = json.loads(in_root("-c", COST).splitlines()[-1])
    print(f"import segloss_fast: {len(modules)} modules, {memory / 2**20:.1f} MiB, {seconds:.2f} s")
    assert not [name for name in modules if name.startswith(("torch._dynamo", "triton", "numpy"))]
    assert memory < 10 * 2**20


@begins_in("test")
def test_a_folder_that_is_called_triton_is_no_triton(tmp_path: Path) -> None:
    (tmp_path / "triton").mkdir()
    code = """
import sys
sys.path[:] = [path for path in sys.path if "site-packages" not in path] + sys.path
import segloss_fast
print([backend.detail for backend in segloss_fast.backends() if backend.impl == "triton"])
"""
    in_root("-c", code, folder=tmp_path)
    hide = "import importlib.metadata, importlib.util as util, types\n"
    hide += "found = util.find_spec\n"
    hide += "util.find_spec = lambda n, *p: types.SimpleNamespace(origin=None) if n == 'triton' "
    hide += "else found(n, *p)\n"
    assert "Triton is not installed" in in_root("-c", hide + code, folder=tmp_path)


@begins_in("test")
def test_the_first_lines_are_a_verdict_that_can_be_cut_off() -> None:
    lines = in_root("-m", "segloss_fast").splitlines()
    assert lines[0].startswith(("CPU: all operators in C++ (", "CPU: plain PyTorch, because "))
    assert lines[1].startswith("GPU: ")
    assert len(lines) == 2
    assert "region_sums        cpu   reference  yes" in in_root("-m", "segloss_fast", "-v")
    command = f"{sys.executable} -m segloss_fast -v | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == lines[0]


@pytest.mark.install  # of a copy, so that the package under test has no say in it
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("torch", "this install was built without torch; run: SEGLOSS_BUILD=require "),
        ("compiler", "there was no C++ compiler when it was installed; install one (Debian: "),
        ("failed", "its native build failed; run: SEGLOSS_BUILD=require "),
        ("skip", "this install was made with SEGLOSS_BUILD=skip; run: SEGLOSS_BUILD=require "),
        (None, "it runs from a source tree that was not built; run: SEGLOSS_BUILD=require "),
    ],
)
def test_a_pure_install_says_why_and_what_repairs_it(
    tmp_path: Path, kind: str | None, said: str
) -> None:
    package = tmp_path / "segloss_fast"
    package.mkdir()
    for path in (ROOT / "segloss_fast").rglob("*.py"):
        copy = package / path.relative_to(ROOT / "segloss_fast")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    if kind is not None:
        (package / "_pure.json").write_text(json.dumps({"kind": kind, "reason": "because"}))

    asked = "import torch, segloss_fast as s\ntry: s.region_sums(torch.zeros(1, 2, 3), "
    asked += "torch.zeros(1, 3), impl='native')\nexcept RuntimeError as error: print(error)\n"
    done = run_python("-c", f"{VERDICT}print('asked:')\n{asked}{LARGE}", folder=tmp_path)
    assert done.returncode == 0, done.stdout
    says, answer = done.stdout.split("asked:\n")
    verdict, *rows = says.splitlines()
    assert verdict.startswith(f"CPU: plain PyTorch, because {said}")
    assert "--no-deps" in verdict
    assert any("native module: none: because" in row for row in rows) == bool(kind)
    assert said in answer
    assert answer.count("RuntimeWarning: segloss_fast computes on the CPU in plain PyTorch") == (
        kind != "skip"
    )
