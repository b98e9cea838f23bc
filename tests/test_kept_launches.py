"""Kernels that are launched again get what Triton would give them, and are those it would take.

Triton's own code launches here, too, for a device that is not there.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast import functional, lovasz, nearest_component, ops
from tests.conformance import LOSSES, Keywords, problem
from tests.helpers import gradient
from tests.suite.kinds import interpreting, why_no_triton
from tests.suite.tiers import begins_in

if why_no_triton() is not None or interpreting():
    pytest.skip("needs Triton, not interpreted", allow_module_level=True)

import triton
from triton import knobs
from triton.runtime.jit import JITFunction

from segloss_fast.ops._triton import kept
from segloss_fast.ops._triton.launch import Launch
from tests.gpu.variants import instead_of_launching, variant
from tests.ops.test_formula_compiled import launch_of
from tests.ops.triton.fake_driver import Call, FakeDriver, counted_runs, fake_driver

MORE_CLASSES = (1, 2, 9, 40, 150)
# Numbers with which Triton may make other kernels: 1, multiples of 16, more than 32 bits.
NUMBERS = (1, 16, 17, 2**33)
SPARE = {torch.float32: torch.float16, torch.uint8: torch.int64}


@pytest.fixture(scope="module")
def launches() -> list[Launch]:
    """Return launches of all kernels there are, no two of which could be one compiled kernel."""
    found = {variant(launch): launch for launch in (launch_of("powers"), launch_of("arithmetic"))}
    with pytest.MonkeyPatch.context() as patches:
        instead_of_launching(patches, lambda launch: found.setdefault(variant(launch), launch))
        for function, x, y, keywords in _calls():
            gradient(partial(function, target=y, **keywords, impl="triton"), x)
        objects = torch.ones(1, 1, 7, 8, 9, dtype=torch.int32)
        nearest_component(objects, impl="triton")
    return list(found.values())


def _calls() -> Iterator[tuple[Callable[..., Tensor], Tensor, Tensor, Keywords]]:
    """Yield losses with input, target and keywords."""
    for record in LOSSES:
        for kind in ("labels", "weighted"):
            case = problem(kind, dtype=torch.float32, hard=record.hard)
            keywords = {**record.keywords[0], "voxel_weight": case.voxel_weight}
            yield record.function, case.input, case.target, keywords
    for classes in MORE_CLASSES:
        x = torch.randn(2, classes, 5, 8, 16)
        y = torch.randint(max(2, classes), (2, 5, 8, 16), dtype=torch.uint8)
        activation = {"activation": "sigmoid" if classes == 1 else "softmax"}
        for loss in (functional.dice_ce_loss, functional.topk_loss):
            yield loss, x, y, activation
        for target in (y, torch.rand_like(x)):
            yield functional.dice_loss, x, target, activation
        yield lovasz_sum, x, y, activation
        if classes > 1:
            cost = 1 - torch.eye(classes)
            yield functional.generalized_wasserstein_dice_loss, x, y, {"distance_matrix": cost}


def lovasz_sum(x: Tensor, target: Tensor, **keywords: Any) -> Tensor:  # noqa: ANN401
    return lovasz(x, target, method="histogram", **keywords).loss


@pytest.fixture
def device() -> Iterator[FakeDriver]:
    kept.forget()
    with fake_driver() as found:
        yield found
    kept.forget()


def ordinary(device: FakeDriver, launch: Launch) -> Call:
    """Return what the launcher gets if Triton launches."""
    launch.kernel[launch.grid](**launch.arguments, **launch.constants, **launch.options)
    return device.calls.pop()


def again(device: FakeDriver, launch: Launch) -> Call:
    """Return what it gets if the kernel that was kept is launched."""
    with counted_runs() as runs:
        launch()
    assert not runs
    return device.calls.pop()


def same(one: Call, other: Call) -> bool:
    """Whether the device could not tell; tensors are the same objects."""
    parts = ((c.grid, c.stream, c.function, c.metadata) for c in (one, other))
    pairs = zip(one.arguments, other.arguments, strict=True)
    return len(set(parts)) == 1 and all(
        a is b if isinstance(a, Tensor) else (type(a), a) == (type(b), b) for a, b in pairs
    )


def changed(launch: Launch) -> Iterator[Launch]:
    """Yield the launch with one change after another, each of one thing."""
    for name, value in launch.arguments.items():
        others: list[Any] = []
        if isinstance(value, Tensor):
            others = [torch.empty(17, dtype=value.dtype)[1:], torch.empty(16, dtype=value.dtype)]
            others.append(torch.empty(16, dtype=SPARE.get(value.dtype, torch.float32)))
        elif isinstance(value, int):
            others = list(NUMBERS)
        for other in others:
            yield replace(launch, arguments={**launch.arguments, name: other})
    for name, value in launch.constants.items():
        for other in _others(value):
            yield replace(launch, constants={**launch.constants, name: other})
    yield replace(launch, warps=2 * launch.warps)
    yield replace(launch, fusion=not launch.fusion)
    yield replace(launch, registers=64)
    yield replace(launch, grid=(*launch.grid, 3)[:3])


def _others(constant: Any) -> Iterator[Any]:  # noqa: ANN401
    if isinstance(constant, int):
        yield int(constant) + 1
    elif isinstance(constant, tuple):
        for place, value in enumerate(constant):
            for other in _others(value):
                parts = (*constant[:place], other, *constant[place + 1 :])
                yield type(constant)(*parts)


def package_kernels() -> set[str]:
    """Return the names of the kernels: jitted functions that exempt sizes."""
    found = set()
    for module in pkgutil.walk_packages(ops.__path__, f"{ops.__name__}."):
        names = vars(importlib.import_module(module.name))
        found |= {
            f"{value.__module__}.{value.fn.__name__}"
            for value in names.values()
            if isinstance(value, JITFunction) and value.do_not_specialize
        }
    return found


@begins_in("test")
def test_all_kernels_are_tried_here(launches: list[Launch]) -> None:
    kernels = {launch.kernel for launch in launches}
    tried = {f"{kernel.__module__}.{kernel.fn.__name__}" for kernel in kernels}
    assert tried == package_kernels()


@begins_in("test")
def test_the_launcher_gets_what_triton_gives_it(launches: list[Launch], device: FakeDriver) -> None:
    for launch in launches:
        expected = ordinary(device, launch)
        with counted_runs() as runs:
            launch()
        assert runs == [launch.kernel]
        assert same(device.calls.pop(), expected)
        device.stream += 1  # which is asked for each time
        expected = replace(expected, stream=device.stream)
        found = again(device, launch)
        assert same(found, expected), launch.kernel
        assert found.listeners == (None, None, None)


@begins_in("test")
def test_each_change_takes_the_kernel_that_triton_takes(
    launches: list[Launch], device: FakeDriver
) -> None:
    """Two launches of each kernel, with everything changed that may decide; and what may not."""
    several = 0
    ends = [{launch.kernel: launch for launch in some} for some in (launches, launches[::-1])]
    chosen = [launch for end in ends for launch in end.values()]
    for launch in chosen:
        tried = [launch, *changed(launch)]
        expected = [ordinary(device, one) for one in tried]
        for one in tried:
            one()
        device.calls.clear()
        found = [again(device, one) for one in tried]
        assert all(map(same, found, expected)), launch.kernel
        functions = {call.function for call in expected}
        several += len(functions)
        numbers = [
            call.function
            for one, call in zip(tried, expected, strict=True)
            if one.constants == launch.constants and one.options == launch.options
            and all(a is b for a, b in zip(tensors(one), tensors(launch), strict=True))
        ]  # fmt: skip
        assert set(numbers) == {expected[0].function}
    assert several > 10 * len(chosen)


def tensors(launch: Launch) -> list[Tensor]:
    return [value for value in launch.arguments.values() if isinstance(value, Tensor)]


def _debugging(patches: pytest.MonkeyPatch, launch: Launch, device: FakeDriver) -> None:
    patches.setattr(knobs.runtime, "debug", True)


def _instrumented(patches: pytest.MonkeyPatch, launch: Launch, device: FakeDriver) -> None:
    patches.setattr(knobs.compilation, "instrumentation_mode", "fpsan")


def _listening(patches: pytest.MonkeyPatch, launch: Launch, device: FakeDriver) -> None:
    patches.setattr(knobs.runtime.launch_enter_hook, "calls", [lambda metadata: None])


def _listening_later(patches: pytest.MonkeyPatch, launch: Launch, device: FakeDriver) -> None:
    patches.setattr(knobs.runtime, "launch_exit_hook", lambda metadata: None)


def _inspected(patches: pytest.MonkeyPatch, launch: Launch, device: FakeDriver) -> None:
    patches.setattr(knobs.runtime, "add_stages_inspection_hook", lambda *call: ("key", "hash"))


def _told_before(patches: pytest.MonkeyPatch, launch: Launch, device: FakeDriver) -> None:
    patches.setattr(launch.kernel, "pre_run_hooks", [lambda **named: None])


def _elsewhere(patches: pytest.MonkeyPatch, launch: Launch, device: FakeDriver) -> None:
    kept.forget()
    patches.setattr(device, "backend", "hip")
    patches.setattr(device, "device", device.device + 10**6)
    launch()


def _of_another_version(patches: pytest.MonkeyPatch, launch: Launch, device: FakeDriver) -> None:
    kept.forget()
    patches.setattr(triton, "__version__", "3.10.0")
    launch()


def _of_another_tensor(patches: pytest.MonkeyPatch, launch: Launch, device: FakeDriver) -> None:
    class Strange(Tensor):
        pass

    patches.setitem(launch.arguments, "x", launch.arguments["x"].as_subclass(Strange))


@pytest.mark.parametrize(
    "change",
    [
        _debugging,
        _instrumented,
        _listening,
        _listening_later,
        _inspected,
        _told_before,
        _elsewhere,
        _of_another_version,
        _of_another_tensor,
    ],
)
@begins_in("test")
def test_triton_launches_where_anything_is_unusual(
    change: Callable[..., None],
    launches: list[Launch],
    device: FakeDriver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launch = next(one for one in launches if one.kernel.fn.__name__ == "input_gradient")
    launch()
    again(device, launch)
    with monkeypatch.context() as patches:
        change(patches, launch, device)
        for _ in range(2):
            with counted_runs() as runs:
                launch()
            assert runs == [launch.kernel]
    if change not in (_elsewhere, _of_another_version):
        again(device, launch)


@begins_in("test")
def test_a_number_that_decides_lets_triton_launch(device: FakeDriver) -> None:
    launch = Launch(_with_a_number, (1,), {"x": torch.empty(16), "n": 3}, {"BLOCK": 4})
    for n in (3, 3, 16, 1):
        with counted_runs() as runs:
            replace(launch, arguments={**launch.arguments, "n": n})()
        assert runs == [launch.kernel]
    assert len({call.function for call in device.calls}) == 3


@triton.jit  # type: ignore[untyped-decorator]
def _with_a_number(x, n: triton.language.int32, BLOCK: triton.language.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    triton.language.store(x + triton.language.arange(0, BLOCK), n)
