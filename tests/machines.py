"""The machines that a primitive's contract is tried on, and what each of them is like.

``tests/ops/test_NAME.py`` states what a primitive promises. Its tests take a ``machine``: an
implementation, on what runs or models it. Each runs once on every machine that this process has:
the reference, the native kernels (with each instruction set where a test asks for that), CUDA C++
on the shim, and those of a CUDA device, which are left out where there is none; or, under
TRITON_INTERPRET=1, Triton's interpreter alone.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from segloss_fast import _native
from segloss_fast._check import FLOATING
from segloss_fast.ops._operator import Kernels, Native
from segloss_fast.ops._voxels import plain
from tests import tiles
from tests.cuda_shim import build, operators
from tests.gpu.device import DEVICE, require, there
from tests.suite import kinds
from tests.suite.built import NATIVE, once

T = TypeVar("T")
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
# Primitives whose Triton kernels leave float64 to others.
NO_FLOAT64 = ("region_sums", "lovasz", "hardest_voxels", "confusion_sums")


@dataclass(frozen=True)
class Machine:
    """An implementation of a primitive, on what runs or models it.

    Attributes:
        primitive: Its name.
        name: The machine's, in the names of tests.
        family: ``"reference"``, ``"native"``, ``"interpreted"``, ``"shim"`` or ``"cuda"``.
        impl: The implementation, as in the package.
        instruction_set: That it is made to use; None for the best one.
    """

    primitive: str
    name: str
    family: str
    impl: str
    instruction_set: str | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def device(self) -> str:
        """Where its tensors are."""
        return DEVICE if self.family == "cuda" else "cpu"

    @property
    def asked(self) -> str:
        """What asks for it in the public functions, once it is prepared."""
        return "native" if self.family == "shim" else self.impl

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """The dtypes of inputs that its kernels take."""
        has_float64 = self.impl != "triton" or self.primitive not in NO_FLOAT64
        return FLOATING if has_float64 else FLOATING[:-1]

    @property
    def marks(self) -> list[pytest.MarkDecorator]:
        """The marks of its tests, among them their kind."""
        if self.family == "interpreted":  # of the interpreter's arithmetic with NaN and infinity
            return [pytest.mark.filterwarnings("ignore::RuntimeWarning")]
        return {"shim": [pytest.mark.shim], "cuda": [pytest.mark.gpu]}.get(self.family, [])

    def pick(self, usual: T, **of_family: T) -> T:
        """Return what a test takes on this machine: the usual, or what is named for its family.

        For how much a test does; sizes of problems are cases of their own: see :func:`sized`.
        """
        return of_family.get(self.family, usual)

    def place(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the CPU where the machine takes it, laid out and aligned as it was."""
        return there(tensor) if self.family == "cuda" else tensor

    def step(self, name: str = "forward") -> Callable[..., Any]:
        """Return the kernels of a step as they are called, with codes for names."""
        if self.family == "shim":  # also where it is not prepared
            return _OnShim().step(self.primitive, name)
        return kernels_of(self.primitive).step(self.impl, name)

    def set_order(self, seed: int) -> None:
        """Choose the order in which the shim runs threads and blocks; others have one."""
        if self.family == "shim":
            shim(self.primitive).segloss_shim_set_seed(seed)

    def set_multiprocessors(self, number: int) -> None:
        """Choose how many of them the shim's device has, as long as the test runs."""
        if self.family == "shim":
            shim(self.primitive).segloss_shim_set_multiprocessors(number)

    def shrink_tiles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the interpreter's small problems be cut as large ones are; others are large."""
        if self.family == "interpreted":
            tiles.set_numbers(monkeypatch, *tiles.SMALL[self.primitive])

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Let the machine run, or skip the test; new tensors of kernels that are modelled are NaN.

        Integers are then their largest value: a voxel that no kernel writes shows.
        """
        with ExitStack() as stack:
            if self.instruction_set is not None:
                stack.enter_context(instruction_set(self.instruction_set))
            if self.family == "cuda":
                require(self.impl, self.primitive)
            if self.family == "interpreted" and self.primitive in tiles.FEW_PROGRAMS:
                patches = stack.enter_context(pytest.MonkeyPatch.context())
                tiles.set_numbers(patches, *tiles.FEW_PROGRAMS[self.primitive])
            if self.family == "shim":
                stack.enter_context(_in_the_place_of_native(self.primitive))
            if self.family in ("shim", "interpreted"):
                stack.enter_context(new_tensors_are_nan())
            yield


NOWHERE = Machine("", "nowhere", "nowhere", "")  # of a test that has no machine in this process


@cache
def machines_of(primitive: str, *, sets: bool = False) -> list[Machine]:
    """Return the machines of a primitive that this process has; those of a device always.

    Args:
        primitive: Its name.
        sets: Whether native kernels stand there once for each instruction set.
    """
    kernels = kernels_of(primitive)
    if kinds.interpreting():
        has_triton = "triton" in kernels.implementations
        return [Machine(primitive, *("interpreted",) * 2, "triton")] if has_triton else []
    found = [Machine(primitive, *("reference",) * 3)]
    if kernels.why_not("native", torch.device("cpu")) is None:
        names: tuple[str | None, ...] = INSTRUCTION_SETS if sets else (None,)
        for name in names:
            machine = "native" if name is None else f"native_{name}"
            found.append(Machine(primitive, machine, *("native",) * 2, instruction_set=name))
    native = kernels.implementations["native"]
    assert isinstance(native, Native)
    if native.cuda:
        found.append(Machine(primitive, *("shim",) * 2, "cuda_shim"))
    on_device = ["native"] if native.cuda else []
    on_device += [impl for impl in kernels.implementations if impl == "triton"]
    found += [Machine(primitive, f"cuda_{impl}", "cuda", impl) for impl in on_device]
    return found


def kernels_of(primitive: str) -> Kernels:
    """Return the kernels that a primitive declares."""
    found: Kernels = import_module(f"segloss_fast.ops.{primitive}.op").kernels
    return found


@cache
def shim(primitive: str) -> ctypes.CDLL:
    """Build and load a primitive's CUDA operators for the CPU; return what steers their threads."""
    if not build.available():
        pytest.skip("no C++ compiler")
    name = f"shim-{primitive}"
    folder = once(name, NATIVE, lambda folder: operators.build_primitive(primitive, folder))
    return operators.load(folder / operators.NAME)


@contextmanager
def new_tensors_are_nan() -> Iterator[None]:
    """Fill new tensors with NaN, or integers with their largest value."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


class _OnShim(Native):
    """CUDA C++ on the shim, whose operators take tensors of the CPU."""

    def why_not(self, primitive: str, device: torch.device) -> None:
        return None

    def step(self, primitive: str, name: str) -> Callable[..., Any]:
        operator = f"_{primitive}" if name == "forward" else f"_{primitive}_{name}"
        library = getattr(torch.ops, operators.library_of(primitive))
        found: Callable[..., Any] = getattr(library, operator)
        return found


@contextmanager
def _in_the_place_of_native(primitive: str) -> Iterator[None]:
    """Let the public functions run the shim's kernels by impl="native"; undo what a test steers."""
    device, kernels = shim(primitive), kernels_of(primitive)
    native, read = kernels.implementations["native"], plain.read_plain
    kernels.implementations["native"] = _OnShim(native.limit)
    plain.read_plain = lambda impl, *tensors: None  # or the CPU's kernels would take them directly
    kernels._steps.clear()
    device.segloss_shim_set_seed(0)
    try:
        yield
    finally:
        kernels.implementations["native"], plain.read_plain = native, read
        kernels._steps.clear()
        device.segloss_shim_set_multiprocessors(3)
        device.segloss_shim_set_shared_bytes(227 * 1024)


def best_instruction_set() -> str:
    """Return the one that the native kernels use here."""
    assert _native._C is not None
    found: str = _native._C.cpu_capability()
    return found


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Let the native kernels use another one; skip the test on a machine without it."""
    library = _native._C
    assert library is not None
    best = best_instruction_set()
    try:
        library.set_cpu_capability(name)
    except RuntimeError as error:
        pytest.skip(str(error))
    try:
        yield
    finally:
        library.set_cpu_capability(best)


def on(*families: str, sets: bool = False) -> pytest.MarkDecorator:
    """Return the mark of a test for machines of these families only, all if none is named.

    Args:
        families: As of :class:`Machine`.
        sets: Whether it runs natively with each instruction set.
    """
    return pytest.mark.machines(*families, sets=sets)


def sized(name: str, usual: Iterable[Any], **of_family: Iterable[Any]) -> pytest.MarkDecorator:
    """Return the mark of a parameter whose values depend on how much a machine can do.

    Args:
        name: Of the parameter.
        usual: The values for most machines.
        of_family: Those for the machines of a family.
    """
    return pytest.mark.sized(name, usual, of_family)


def parametrize(metafunc: pytest.Metafunc, primitive: str) -> None:
    """Let a test that takes a machine run on those that its marks leave, with their sizes."""
    chosen = metafunc.definition.get_closest_marker("machines")
    families, sets = ((), False) if chosen is None else (chosen.args, chosen.kwargs["sets"])
    marks = list(metafunc.definition.iter_markers("sized"))[::-1]
    cases = [
        _case(machine, values)
        for machine in machines_of(primitive, sets=sets)
        if not families or machine.family in families
        for values in itertools.product(*(machine.pick(m.args[1], **m.args[2]) for m in marks))
    ]
    if not cases:
        cases = [pytest.param(NOWHERE, *[None] * len(marks), id=NOWHERE.name)]
    names = ["machine", *(mark.args[0] for mark in marks)]
    metafunc.parametrize(names, cases, indirect=["machine"])


def _case(machine: Machine, values: Iterable[Any]) -> Any:  # noqa: ANN401 # pytest's own is private
    """Return a case of a test; values may be such of pytest.param, with marks of their own."""
    marked = [value if hasattr(value, "marks") else pytest.param(value) for value in values]
    plain = [value for one in marked for value in one.values]
    marks = [*machine.marks, *(mark for one in marked for mark in one.marks)]
    return pytest.param(machine, *plain, id="-".join(map(str, (machine, *plain))), marks=marks)
