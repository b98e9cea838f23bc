"""Settings in which an installed package must run: nothing to write to, no HOME, little memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Sandbox, run_python
from tests.suite import tracing
from tests.suite.tree import ROOT

pytestmark = [
    pytest.mark.install,
    pytest.mark.skipif(sys.platform != "linux", reason="modes, and limits of a process"),
]

# Uses every primitive. Not by assert, which -O takes away.
STEPS = """
import os, sys, torch, segloss_fast
from segloss_fast._native import _C

def check(what, why):
    if not what:
        raise SystemExit(why)

package = os.path.dirname(segloss_fast.__file__)
try:
    open(os.path.join(package, "new.py"), "w")
except OSError as error:
    print("refused:", type(error).__name__)
check("HOME" not in os.environ, "there is a HOME")
check((_C is not None) == (sys.argv[1] == "native"), "not the package that was meant")
x = torch.randn(2, 3, 12, 13, requires_grad=True)
labels = torch.randint(3, (2, 12, 13))
for name in (
    "DiceCELoss", "LovaszSoftmaxLoss", "HausdorffDTLoss", "BoundaryLoss", "SoftClDiceLoss",
    "TopKLoss", "StructuralSimilarityLoss", "BlobLoss", "GeneralizedWassersteinDiceLoss",
):
    loss = getattr(segloss_fast, name)()(x, labels)
    (grad,) = torch.autograd.grad(loss, x)
    check(bool(loss.isfinite()) and bool(grad.isfinite().all()), name)
    print(name)
"""


def without_privileges() -> list[str]:
    """Return what runs a command to which modes of files apply, as they do not to root."""
    if os.geteuid() != 0:
        return []
    program = shutil.which("setpriv")
    if program is None:
        pytest.skip("root, and no setpriv")
    return [program, "--inh-caps=-all", "--bounding-set=-dac_override"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [("native", ["-W", "error"]), ("pure", ["-O", "-W", "error"])],
    ids=["native", "pure, without asserts"],
)
def test_read_only_and_without_a_home(
    native_sandbox: Sandbox, pure_sandbox: Sandbox, tmp_path: Path, kind: str, options: list[str]
) -> None:
    """Where nothing may be written, not even what Python compiles, and no warning is let pass."""
    site = tmp_path / "site"
    installed = native_sandbox if kind == "native" else pure_sandbox
    shutil.copytree(installed.site, site, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*site.rglob("*"), site):
        path.chmod(0o555 if path.is_dir() else 0o444)
    hidden = {"HOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", *tracing.variables()}
    environ = {name: value for name, value in os.environ.items() if name not in hidden}
    environ["PYTHONPATH"] = os.pathsep.join([str(site), *filter(None, sys.path)])
    command = [*without_privileges(), sys.executable, "-S", *options, "-c", STEPS, kind]
    try:
        done = subprocess.run(
            command,
            cwd=site,
            env=environ,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    finally:
        for path in (site, *site.rglob("*")):
            path.chmod(0o755)
    assert done.returncode == 0, done.stdout
    said = done.stdout.splitlines()
    assert said[0] == "refused: PermissionError"
    assert len(said) == 10
    assert not list(site.rglob("__pycache__"))


# Every tensor of more than 32 KiB comes from the kernel anew (MALLOC_MMAP_THRESHOLD_), so that each
# is one that may not be had.
LITTLE = """
import resource, torch, segloss_fast

def limit(more):
    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    soft = resource.RLIM_INFINITY if more is None else held + more
    resource.setrlimit(resource.RLIMIT_AS, (soft, resource.RLIM_INFINITY))

def step():
    value = loss(x, labels)
    return value.detach(), torch.autograd.grad(value, x)[0]

torch.set_num_threads(2)
torch.manual_seed(0)
x = torch.randn(1, 3, 16, 48, 48, requires_grad=True)
labels = torch.randint(3, (1, 16, 48, 48))
for name in (
    "DiceCELoss", "LovaszSoftmaxLoss", "HausdorffDTLoss", "BoundaryLoss", "SoftClDiceLoss",
    "TopKLoss", "StructuralSimilarityLoss", "BlobLoss", "GeneralizedWassersteinDiceLoss",
):
    loss = getattr(segloss_fast, name)()
    step()  # what is made once, threads among it
    expected = step()
    refused = 0
    for more in (0, 2**19, 2**20, 2**21, 2**22):
        limit(more)
        try:
            step()
        except MemoryError:
            refused += 1
        except RuntimeError as error:
            refused += 1
            if "memory" not in str(error):
                raise
        finally:
            limit(None)
        for found, true in zip(step(), expected):
            if not torch.equal(found, true):
                raise SystemExit(f"{name} is another one after {more}")
    print(name, refused)
"""


def test_an_error_where_addresses_end_and_right_afterwards(tmp_path: Path) -> None:
    """Of each primitive, at several places: in what torch allocates and in scratch memory."""
    environ = {"PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": str(2**15)}
    done = run_python("-c", LITTLE, folder=tmp_path, **environ)
    assert done.returncode == 0, done.stdout
    refused = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(refused) == 9
    assert min(refused) >= 1, done.stdout
