"""What an import and a step do not do: unpickle, use the network, write, load from elsewhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import run_python
from tests.suite.tiers import begins_in
from tests.suite.tree import ROOT

WATCHED = """
import os, sys
import torch, pickle

found, watching = [], True
FORBIDDEN = ("pickle.find_class", "socket.", "subprocess.", "urllib.", "http.", "ftplib.",
             "os.exec", "os.fork", "os.posix_spawn", "os.system", "os.remove", "os.rename",
             "os.mkdir")

def hook(event, arguments):
    if not watching:
        return
    if event.startswith(FORBIDDEN):
        found.append((event, str(arguments)[:200]))
    writes = event == "open" and isinstance(arguments[2], int)
    if writes and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        if not str(arguments[0]).startswith("/dev/"):
            found.append((event, str(arguments)[:200]))

sys.addaudithook(hook)
import segloss_fast
x = torch.randn(2, 3, 8, 9, requires_grad=True)
labels = torch.randint(3, (2, 8, 9))
for name in ("DiceCELoss", "LovaszSoftmaxLoss", "HausdorffDTLoss"):
    getattr(segloss_fast, name)()(x, labels).backward()
before = len(found)
pickle.loads(pickle.dumps(segloss_fast.DiceCELoss))  # by name
os.system("true")
watching = False
assert {event for event, _ in found[before:]} >= {"pickle.find_class", "os.system"}  # it is alive
for each in found[:before]:
    print("FOUND", each)
folder = os.path.dirname(segloss_fast.__file__)
for line in open("/proc/self/maps"):
    path = line.split(maxsplit=5)[5].strip() if line.count(" ") > 4 and "/" in line else ""
    if ".so" in path and ("_C" in os.path.basename(path) or path.startswith(os.getcwd())):
        print("LOADED", path)
print("OWN", folder)
"""


@begins_in("all")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_import_and_steps_are_harmless(tmp_path: Path) -> None:
    """In a folder of libraries that are none, without HOME, asserts or leave to warn."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    decoys = ("_C.so", f"_C{suffix}", "_C_cuda.so", "libsegloss_fast.so", "libtorch_cpu.so")
    for name in decoys:
        (tmp_path / name).write_text("no library")
    (tmp_path / "segloss_fast.json").write_text("{}")
    environ = {
        "PYTHONPATH": str(ROOT),
        "LD_LIBRARY_PATH": "",
        "HOME": str(tmp_path / "none"),
        "PYTHONDONTWRITEBYTECODE": "1",  # the interpreter itself would
    }
    done = run_python("-W", "error", "-c", WATCHED, folder=tmp_path, **environ)
    assert done.returncode == 0, done.stdout
    assert "FOUND" not in done.stdout, done.stdout
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    own = next(rest for word, rest in lines if word == "OWN")
    loaded = {rest for word, rest in lines if word == "LOADED"}
    assert not {path for path in loaded if path.startswith(str(tmp_path))}
    ours = {path for path in loaded if Path(path).name.startswith("_C") and "/torch/" not in path}
    assert all(path.startswith(own) for path in ours), ours
    assert not (tmp_path / "none").exists()


OPTIMISED = """
import torch, segloss_fast, resource
assert False, "without asserts this is no error"
x, labels = torch.randn(2, 3, 8, 9), torch.randint(3, (2, 8, 9))
try:
    segloss_fast.DiceCELoss()(x, labels + 1)
except ValueError as error:
    print(error)
mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**28, mapped + 2**28))
x = torch.zeros(()).expand(1, 2, 2**28).requires_grad_()
try:
    segloss_fast.DiceCELoss()(x, torch.zeros((), dtype=torch.uint8).expand(1, 2**28)).backward()
except (RuntimeError, MemoryError) as error:
    print("no memory:", type(error).__name__)
print(float(segloss_fast.DiceCELoss()(torch.zeros(1, 2, 9), torch.zeros(1, 9))) > 0)
"""


@begins_in("all")
@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
def test_without_asserts_and_with_little_memory(tmp_path: Path) -> None:
    """Checks do not rest on asserts; where memory ends there is an error, and life goes on."""
    environ = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = run_python("-O", "-c", OPTIMISED, folder=tmp_path, **environ)
    assert done.returncode == 0, done.stdout
    assert "got " in done.stdout
    assert "no memory: " in done.stdout
    assert done.stdout.strip().endswith("True")


def test_the_package_names_nothing_that_unpickles_or_connects() -> None:
    words = ("pickle.load", "torch.load(", "urlopen", "import requests", "import socket", " exec(")
    for path in (ROOT / "segloss_fast").rglob("*.py"):
        found = [word for word in words if word in path.read_text()]
        assert not found, f"{path.relative_to(ROOT)}: {found}"


@pytest.mark.skipif(sys.platform != "linux", reason="of ELF files")
def test_the_library_is_hardened(native: ModuleType) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("no readelf")
    command = ["readelf", "--wide", "--segments", "--dynamic", "--dyn-syms", str(native.__file__)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "GNU_RELRO" in said
    assert "BIND_NOW" in said or "FLAGS_1) Flags: NOW" in said
    assert "__stack_chk_fail" in said
    assert "-D_FORTIFY_SOURCE=2" in native.build_info()["flags"]
