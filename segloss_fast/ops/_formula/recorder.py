"""Writes down what a formula does to the rows of sums, and what its derivative does."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from segloss_fast.ops._formula.layout import assemble
from segloss_fast.ops._formula.lowering import HANDLERS, constant
from segloss_fast.ops._formula.program import Program, Step, Untraceable, View

MOST_STEPS = 1000
DTYPES = (torch.float32, torch.float64, torch.bool, torch.int64)


@dataclass
class _Slot:
    """Numbers of the array, from one tensor's storage."""

    size: int
    constants: list[float] = field(default_factory=list)


class Recorder(TorchDispatchMode):
    """Sees all operations of a formula and of its derivative, and writes them down as steps.

    Attributes:
        steps: What was written down.
        slots: What the steps are about: first the arguments.
        name: Of the operation that is being written down.
        leaf: The rows, once they have been asked for.
    """

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.slots: list[_Slot] = []
        self.name = ""
        self._places: dict[int, int] = {}
        self._numbers: dict[str, int] = {}
        self._fresh: set[int] = set()
        self._alive: list[Tensor] = []  # an address in memory then stands for one tensor
        self.leaf: Tensor | None = None
        for tensor in known:
            if _whole(tensor).numel() != tensor.numel() or _address(tensor) in self._places:
                self.refuse()  # a part of something that another one may be a part of, too
            self._open(tensor)

    def rows(self, *shape: int) -> Tensor:
        """Return rows of sums of a shape, made up."""
        if self.leaf is not None or 0 in shape:
            self.refuse()
        count = math.prod(shape)
        numbers = [0.5 + 0.7 * (i % 7 + 1) / (i % 3 + 3) for i in range(count)]
        self.leaf = torch.tensor(numbers, dtype=torch.float64).view(shape).requires_grad_()
        self._open(self.leaf)
        return self.leaf

    def _see(
        self,
        func: Any,  # noqa: ANN401
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        self.name = func.__name__
        tensors = _tensors((*args, *kwargs.values()))
        traced = any(_address(tensor) in self._places for tensor in tensors)
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.refuse()
        fresh = func is torch.ops.aten.lift_fresh.default or self._fresh.issuperset(
            map(_address, tensors)
        )
        if not traced and not fresh:
            self.refuse()  # it may be the volume itself, or change from call to call
        if traced and func._schema.is_mutable:
            self._make_writable(args[0])
        result = func(*args, **kwargs)
        found = _tensors([result])
        self._alive += found
        if not traced:
            if tensors and not found:
                self.refuse()  # a number that Python reads
            self._fresh |= {_address(tensor) for tensor in found}
            return result
        self._record(func, args, kwargs, tensors, result)
        return result

    def _record(
        self,
        func: Any,  # noqa: ANN401
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tensors: list[Tensor],
        result: Any,  # noqa: ANN401
    ) -> None:
        before = {_address(tensor) for tensor in tensors}
        found = _tensors([result])
        if not func._schema.is_mutable and found and all(_address(t) in before for t in found):
            return  # a view
        handler = HANDLERS.get(func.overloadpacket)
        if handler is None or not isinstance(result, Tensor) or "out" in kwargs:
            self.refuse()
        if handler is constant:
            self._fresh.add(_address(result))
            return
        if _address(result) not in self._places:
            self._open(result)
        try:
            handler(self, result, *args, **kwargs)
        except TypeError as error:  # an argument that no handler has heard of
            raise Untraceable(f"{self.name}: {error}") from error

    def refuse(self) -> NoReturn:
        """Give up."""
        raise Untraceable(f"{self.name} is no step of a program")

    def emit(self, operation: str, out: Tensor, *operands: Tensor | float) -> None:
        """Write down a step whose result is all of a tensor."""
        if out.numel() == 0:
            return
        views = tuple(self._operand(operand, out.shape) for operand in operands)
        rounds = out.dtype == torch.float32
        self.steps.append(Step(operation, rounds, tuple(out.shape), self.view(out), views))
        if len(self.steps) > MOST_STEPS:
            self.refuse()

    def _operand(self, operand: Tensor | float, shape: torch.Size) -> View:
        if isinstance(operand, Tensor):
            return self.view(operand.expand(shape))
        number = float(operand)
        if number.hex() not in self._numbers:  # 0 equals -0, but is another number
            self._numbers[number.hex()] = len(self.slots)
            self.slots.append(_Slot(1, [number]))
        return View(self._numbers[number.hex()], 0, (0,) * len(shape))

    def view(self, tensor: Tensor) -> View:
        """Return where a tensor's elements are."""
        sizes = zip(tensor.stride(), tensor.shape, strict=True)
        strides = tuple(int(stride) if size != 1 else 0 for stride, size in sizes)
        return View(self._slot(tensor), int(tensor.storage_offset()), strides)

    def _slot(self, tensor: Tensor) -> int:
        place = self._places.get(_address(tensor))
        if place is not None:
            return place
        if _address(tensor) not in self._fresh:
            self.refuse()  # a tensor from elsewhere, whose numbers may change
        return self._open(tensor, keeps=True)

    def temporary(self, like: Tensor) -> Tensor:
        """Return a tensor of a shape for what a step leaves to the next one."""
        made = torch.empty(like.shape, dtype=like.dtype)
        self._alive.append(made)
        self._open(made)
        return made

    def _make_writable(self, tensor: Tensor) -> None:
        """Make a copy of constants, which stay as they are for the next call."""
        before = self._slot(tensor)
        if self.slots[before].constants:
            whole = _whole(tensor)
            size = (whole.numel(),)
            after = self._open(tensor)
            views = (View(slot, 0, (1,)) for slot in (after, before))
            self.steps.append(Step("copy", False, size, next(views), (next(views),)))

    def _open(self, tensor: Tensor, *, keeps: bool = False) -> int:
        """Give a storage a slot, of constants if its numbers are to be kept."""
        if tensor.dtype not in DTYPES or tensor.device.type != "cpu":
            self.refuse()
        whole = _whole(tensor)
        self._alive.append(whole)
        self._places[_address(tensor)] = len(self.slots)
        self.slots.append(_Slot(whole.numel(), whole.tolist() if keeps else []))
        return len(self.slots) - 1


# Not by its name in the class: that would wrap it in what imports torch._dynamo when it is called,
# which takes seconds.
Recorder.__torch_dispatch__ = Recorder._see  # type: ignore[method-assign,assignment]


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    """Return the tensors among the arguments or results of an operation."""
    found = []
    for value in values:
        inner = value if isinstance(value, (list, tuple)) else (value,)
        found += [one for one in inner if isinstance(one, Tensor)]
    return found


def _whole(tensor: Tensor) -> Tensor:
    """Return all of the memory that a tensor is a view of."""
    return torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())


def trace(
    formula: Callable[[Callable[[int, int, int], Tensor], Sequence[Tensor]], Tensor],
    arguments: Sequence[Tensor] = (),
    *,
    from_rows: bool = False,
) -> Program:
    """Return the program of a formula and of its derivative in the rows of sums.

    Args:
        formula: Asks its first argument once for rows ``[K, B, C]`` float64 of a shape, gets the
            other arguments as its second one, and returns a number. What it does may depend on
            shapes and dtypes alone, and on tensors that it makes itself.
        arguments: Tensors that may be others of the same shape and dtype in each call.
        from_rows: Whether the formula begins where it asks for rows, and may do anything before;
            and uses the arguments themselves.

    Raises:
        Untraceable: If it does something else, or is no number.
    """
    with contextlib.ExitStack() as stack:
        used = [a if from_rows else torch.ones(a.shape, dtype=a.dtype) for a in arguments]
        recorder, recording = Recorder(used), torch.is_grad_enabled()

        def begin() -> None:
            if torch.is_grad_enabled() != recording:
                raise Untraceable("this is inside of something with a derivative of its own")
            # Those around, of activation checkpoints for example, are not about these tensors.
            keep = torch.autograd.graph.saved_tensors_hooks(_same, _same)
            for context in (torch.inference_mode(False), torch.enable_grad(), keep, recorder):
                stack.enter_context(context)

        def rows(*shape: int) -> Tensor:
            if from_rows and recorder.leaf is None:
                begin()
            return recorder.rows(*shape)

        if not from_rows:
            begin()
        loss = formula(rows, used)
        x = recorder.leaf
        if loss.dim() or loss.dtype not in (torch.float32, torch.float64):
            raise Untraceable("only a number has a program")
        if x is None or not loss.requires_grad:
            raise Untraceable("only what is made of the sums has a program")
        place, values = recorder.view(loss), len(recorder.steps)
        (found,) = torch.autograd.grad(loss, x)
        grad = recorder.temporary(x)
        grad.copy_(found)  # also of constants
    return assemble(recorder, [a.numel() for a in arguments], (loss, place, values), grad)


def _same(tensor: Tensor) -> Tensor:
    return tensor
