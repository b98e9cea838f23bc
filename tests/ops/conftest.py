"""The machines of a primitive's contract; the CUDA kernels built for the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import torch

from tests import machines
from tests.cuda_shim import build
from tests.ops import lovasz_cuda, region_sums_cuda
from tests.suite import kinds
from tests.suite.built import NATIVE, once


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let the tests of a contract run on every machine of its primitive."""
    primitive = kinds.contract_of(metafunc.module.__name__.rpartition(".")[2])
    if primitive is not None and "machine" in metafunc.fixturenames:
        machines.parametrize(metafunc, primitive)


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[machines.Machine]:
    """The machine of the case, ready to run."""
    with request.param.prepared():
        yield request.param


@pytest.fixture
def small_tiles(machine: machines.Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small problems have several of everything."""
    machine.shrink_tiles(monkeypatch)


@pytest.fixture
def new_tensors_are_nan() -> Iterator[None]:
    """Fill new tensors with NaN (integers with their largest value): what no kernel wrote shows."""
    with machines.new_tensors_are_nan():
        yield


@pytest.fixture(scope="session")
def shim() -> ctypes.CDLL:
    """Build and load the operators; return what steers the order of threads and blocks."""
    if not build.available():
        pytest.skip("no C++ compiler")
    name = "region_sums.so"
    folder = once("shim-region_sums", NATIVE, lambda f: region_sums_cuda.build_library(f / name))
    library = folder / name
    torch.ops.load_library(str(library))
    return ctypes.CDLL(str(library))


@pytest.fixture
def device(shim: ctypes.CDLL) -> Iterator[ctypes.CDLL]:
    """Restore the order of threads and the number of multiprocessors after the test."""
    yield shim
    shim.segloss_shim_set_seed(0)
    shim.segloss_shim_set_multiprocessors(3)


@pytest.fixture(scope="session")
def lovasz_shim() -> ctypes.CDLL:
    """Build and load the operators of lovasz, as ``shim`` does."""
    if not build.available():
        pytest.skip("no C++ compiler")
    name = "lovasz.so"
    library = once("shim-lovasz", NATIVE, lambda f: lovasz_cuda.build_library(f / name)) / name
    torch.ops.load_library(str(library))
    return ctypes.CDLL(str(library))


@pytest.fixture
def lovasz_device(lovasz_shim: ctypes.CDLL) -> Iterator[ctypes.CDLL]:
    """Restore what the test changes of the device."""
    yield lovasz_shim
    lovasz_shim.segloss_shim_set_seed(0)
    lovasz_shim.segloss_shim_set_multiprocessors(3)
    lovasz_shim.segloss_shim_set_shared_bytes(227 * 1024)
