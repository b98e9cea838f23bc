"""Launches of kernels that have been compiled, without what Triton does anew for each of them.

Triton binds the arguments of a launch by name, some fifty of them, asks of each what kernels are
specialised on, and looks for the compiled kernel by all of that. It takes the host several times as
long as the launch. Of ours only constants, and dtypes and alignment of tensors, decide which kernel
it is: other numbers are exempt. So these are looked at, and the kernel that Triton took for them
before is launched again, as Triton would.

Where anything is not as usual Triton launches: the first time, in another version of it than was
read for this, interpreted, on other devices than CUDA's, while something listens to launches or
changes how kernels are compiled, with other tensors than plain ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import triton
from torch import Tensor
from torch.nn import Parameter
from triton import knobs
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

# In Triton 3.6 to 3.9 a launch is what is done here (JITFunction.run).
FIRST, LAST = (3, 6), (3, 9)
ALIGNMENT = 16  # bytes, at multiples of which tensors begin for which other kernels are made
_PLAIN = (Tensor, Parameter)

Key = tuple[Any, ...]


class _Order:
    """How a kernel takes its arguments.

    Attributes:
        kernel: It lives as long as this does: its address stands for it in keys.
        tensors: The names of its tensors.
        constants: Takes what is known at compile time out of all values by name.
        all: Takes all values, in order.
    """

    def __init__(self, kernel: Any) -> None:
        names = [parameter.name for parameter in kernel.params]
        self.kernel = kernel
        self.count = len(names)
        self.tensors = [p.name for p in kernel.params if not (p.is_constexpr or p.annotation_type)]
        constants = [p.name for p in kernel.params if p.is_constexpr]
        self.constants = _taker(constants)
        self.all = _taker(names)


@dataclass(frozen=True)
class _Kept:
    """A compiled kernel: Triton's launcher of it, and what that takes besides the arguments."""

    order: _Order
    launcher: Any
    function: Any
    metadata: Any


_orders: dict[int, _Order] = {}  # by the address of the kernel
_kept: dict[Key, _Kept] = {}


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    arguments: dict[str, Any],
    constants: dict[str, Any],
    options: dict[str, Any],
) -> None:
    """Enqueue a kernel on the current stream of the current device.

    Args:
        kernel: The jitted function.
        grid: Number of programs, along one to three dimensions.
        arguments: By name, at run time.
        constants: By name, at compile time.
        options: Of the compiler.
    """
    values = {**arguments, **constants}
    key = _key_of(kernel, values, options)
    found = None if key is None else _kept.get(key)
    if key is None or found is None:
        compiled = kernel[grid](**values, **options)
        if key is not None:
            _keep(key, kernel, compiled)
        return
    x, y, z = (*grid, 1, 1)[:3]
    stream = driver.active.get_current_stream(key[1])
    hooks = (None, None, None)  # nobody listens, and nobody gets what is told of the launch
    found.launcher(
        x, y, z, stream, found.function, found.metadata, *hooks, *found.order.all(values)
    )  # fmt: skip


def forget() -> None:
    """Keep nothing of what was kept."""
    _kept.clear()
    _orders.clear()


def _key_of(kernel: Any, values: dict[str, Any], options: dict[str, Any]) -> Key | None:
    """Return what decides which kernel it is, or None where Triton is to launch it."""
    order = _order_of(kernel)
    if order is None or len(values) != order.count or _is_unusual(kernel):
        return None
    key = [id(kernel), driver.active.get_current_device()]
    for name in order.tensors:
        tensor: Any = values.get(name)
        if type(tensor) not in _PLAIN:
            return None
        key += (tensor.dtype, tensor.data_ptr() % ALIGNMENT == 0)
    return (*key, *order.constants(values), *options.values())


def _is_unusual(kernel: Any) -> bool:
    """Whether something listens to launches, or changes how kernels are compiled."""
    runtime = knobs.runtime
    return bool(
        kernel.pre_run_hooks
        or runtime.debug
        or knobs.compilation.instrumentation_mode
        or runtime.add_stages_inspection_hook is not None
        or _is_hooked(runtime.launch_enter_hook)
        or _is_hooked(runtime.launch_exit_hook)
    )


def _is_hooked(hook: Any) -> bool:
    if type(hook) is knobs.HookChain:
        return bool(hook.calls)
    return hook is not None


def _order_of(kernel: Any) -> _Order | None:
    """Return how the kernel takes its arguments, or None where it is not served."""
    address = id(kernel)
    if address not in _orders:
        if not _is_served(kernel):
            return None
        _orders[address] = _Order(kernel)
    return _orders[address]


def _is_served(kernel: Any) -> bool:
    """Whether it is compiled, by a Triton that is known, and no number decides how."""
    if type(kernel) is not JITFunction or not FIRST <= _version() <= LAST:
        return False
    return all(
        parameter.is_constexpr
        or not parameter.annotation_type  # tensors, which are looked at
        or parameter.do_not_specialize
        or parameter.annotation_type[:2] in ("fp", "bf")
        for parameter in kernel.params
    )


def _version() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", triton.__version__)
    return (0, 0) if found is None else (int(found[1]), int(found[2]))


def _keep(key: Key, kernel: Any, compiled: Any) -> None:
    """Keep what Triton has launched, if that is a kernel for CUDA."""
    order = _order_of(kernel)
    if order is None or type(compiled) is not CompiledKernel:
        return
    if compiled.metadata.target.backend == "cuda":
        what = (compiled.run, compiled.function, compiled.packed_metadata)
        _kept[key] = _Kept(order, *what)


def _taker(names: list[str]) -> Any:
    """Return what takes the values of these names out of a dictionary, as a tuple."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple(values[name] for name in names)
