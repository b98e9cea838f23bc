"""Nothing is left behind, whatever one does and how often: memory, threads, files."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import segloss_fast
from tests.conftest import run_python
from tests.records import LOSSES, LOVASZ_LOSSES
from tests.suite.tiers import begins_in
from tests.suite.tree import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# All losses together would take a minute and a half of 2000 calls each.
CALLS = (400, pytest.param(2000, marks=[begins_in("hand"), pytest.mark.sanitizers]))
SHAPES = ((1, 2, 6), (2, 3, 4, 5))
Loss = Callable[[Tensor, Tensor], Tensor]


def skeleton_recall() -> Loss:
    loss = segloss_fast.SkeletonRecallLoss()
    return lambda x, labels: loss(x, labels, skeleton=labels)


def deep_supervision() -> Loss:
    loss = segloss_fast.DeepSupervisionLoss(segloss_fast.DiceCELoss())
    return lambda x, labels: loss([x, x[..., ::2]], labels)


# What makes each loss.
MAKERS: list[Callable[[], Loss]] = [
    *(record.module for record in LOSSES),
    *(loss for loss, _ in LOVASZ_LOSSES.values()),
    *(skeleton_recall, deep_supervision),
]


def held() -> int:
    """Return the bytes that this process holds."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def steps(make: Callable[[], Loss], count: int) -> None:
    """Make so many steps of fresh modules and old ones, of shapes in turn."""
    problems = [
        (torch.randn(shape).requires_grad_(), torch.randint(2, (shape[0], *shape[2:])))
        for shape in SHAPES
    ]
    loss = make()
    for i in range(count):
        x, labels = problems[i % len(problems)]
        if i % 50 == 0:
            loss = make()
        value = loss(x, labels)
        value.backward()
        x.grad = None


def test_every_loss_is_called() -> None:
    named = {name for name in segloss_fast.__all__ if name.endswith("Loss")}
    assert named == {make.__name__ for make in MAKERS[:-2]} | {
        "SkeletonRecallLoss",
        "DeepSupervisionLoss",
    }


@begins_in("all")
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("calls", CALLS)
def test_calls_leave_nothing(make: Callable[[], Loss], calls: int) -> None:
    """Of 2000 calls, 600 bytes that each of them leaves would show; an object at once."""
    steps(make, 100)
    gc.collect()
    memory, files, running = held(), open_files(), threads()
    objects = len(gc.get_objects())
    steps(make, calls)
    gc.collect()
    assert open_files() == files
    assert threads() == running
    assert threading.active_count() <= running
    assert len(gc.get_objects()) < objects + 200
    assert held() - memory < 2**20 + 2**17


WORKERS = """
import sys
import torch
import segloss_fast
from torch.utils.data import DataLoader, Dataset

class Masks(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        mask = torch.zeros(2, 40, 41, dtype=torch.bool)
        mask[:, i + 1 : 30] = True
        return segloss_fast.distance_transform(mask[None])[0], float(step())

def step():
    x = torch.linspace(-1, 1, 2 * 3 * 80 * 81).view(2, 3, 80, 81).requires_grad_()
    loss = segloss_fast.LovaszSoftmaxLoss()(x, torch.arange(2 * 80 * 81).view(2, 80, 81) % 3)
    loss.backward()
    return loss.detach()

if __name__ == "__main__":
    torch.set_num_threads(2)
    expected = step()  # torch has started its threads
    loader = DataLoader(Masks(), num_workers=2, multiprocessing_context=sys.argv[1])
    for distances, value in loader:
        assert abs(float(value) - float(expected)) < 1e-6
        assert distances.max() > 0
    assert step() == expected
    print("all of", len(loader))
"""


@begins_in("all")
@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_workers_of_a_data_loader(how: str, tmp_path: Path) -> None:
    program = tmp_path / "workers.py"
    program.write_text(WORKERS)
    environ = {"PYTHONPATH": str(ROOT)}
    done = run_python("-W", "ignore", str(program), how, folder=tmp_path, **environ)
    assert done.returncode == 0, done.stdout
    assert "all of 6" in done.stdout


LOADED_AGAIN = """
import sys, importlib
import torch
import segloss_fast
from segloss_fast._native import _C
x, labels = torch.randn(1, 2, 9), torch.zeros(1, 9)
first = segloss_fast.DiceCELoss()(x, labels)
for _ in range(3):
    importlib.import_module("segloss_fast")
    importlib.reload(segloss_fast)
    assert segloss_fast.DiceCELoss()(x, labels) == first
maps = open("/proc/self/maps").read().splitlines()
libraries = {line.split()[-1] for line in maps if "segloss_fast" in line and ".so" in line}
print(len(libraries), "libraries", _C is not None)
"""


@begins_in("all")
def test_loaded_again(tmp_path: Path) -> None:
    done = run_python("-c", LOADED_AGAIN, folder=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stdout
    native = segloss_fast._native._C is not None
    assert f"{int(native)} libraries {native}" in done.stdout
