"""A formula of sums: by torch's operators, or on the CPU in one call of C++ without them.

An operator of torch costs a small problem more than its kernels do, and most where other code ran
between two steps, as that of a network: each brings its own into the processor's caches. So the
module takes the tensors themselves, and reads where they lie (``csrc/region_sums/step.cpp``).

Who looks on must see operators: compilers, and the modes of torch that count, record or stand in
for operations. They get those of the dispatcher, and so do tensors that are no plain ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from segloss_fast._impl import transforms_active
from segloss_fast._native import _C
from segloss_fast.ops._formula import Program, evaluate
from segloss_fast.ops._voxels.checks import check_target
from segloss_fast.ops._voxels.labels import refuse_labels
from segloss_fast.ops.region_sums import native, op
from segloss_fast.ops.region_sums.options import Options

if TYPE_CHECKING:
    from segloss_fast.ops.region_sums.formula import Formula

CPU = torch.device("cpu")
Tensors = tuple[Tensor, ...]


class Call(NamedTuple):
    """A formula of sums of tensors that have been checked: inputs, targets and voxel weights.

    Attributes:
        formula: What is computed.
        impl: "native" or "triton".
        arguments: Those of the program.
        levels: A weight for each of the inputs.
    """

    formula: Formula
    impl: str
    arguments: Tensors
    levels: tuple[float, ...]

    def split(self, tensors: Tensors) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return inputs, targets and voxel weights."""
        n = len(self.levels)
        return list(tensors[:n]), list(tensors[n : 2 * n]), list(tensors[2 * n :])

    def run(self, tensors: Tensors, read: Any, *, gradient: bool) -> tuple[Tensor, Any]:  # noqa: ANN401
        """Return the number, and what derive takes as its gradient in the sums."""
        rows = op.forward(self.impl, *self.split(tensors), self.formula.options)
        return evaluate(self.formula.program, rows, self.arguments, self.levels, gradient=gradient)

    def derive_directly(self, grad: Any, factor: Tensor, tensors: Tensors) -> list[Tensor] | None:  # noqa: ANN401
        """Return what derive does, None where that must be asked."""
        return None

    def derive(self, grad: Any, factor: Tensor, tensors: Tensors) -> list[Tensor]:  # noqa: ANN401
        """Return the gradient of each input, given that of the number."""
        options, rows = self.formula.options, grad * factor
        if torch.is_grad_enabled():  # a second derivative may follow: the operator refuses it
            operator = torch.ops.segloss_fast.region_sums_multi_backward
            split, others = self.split(tensors), op.arguments(options, self.impl)
            grads: list[Tensor] = operator(rows, *split, *others)
            return grads
        return op.backward(self.impl, rows, *self.split(tensors), options)


class DirectCall(Call):
    """The same by C++ alone. A target may have an axis for the only index of a voxel."""

    __slots__ = ()

    def run(self, tensors: Tensors, read: Any, *, gradient: bool) -> tuple[Tensor, bytes]:  # noqa: ANN401
        formula = self.formula
        arguments = self.arguments and tuple(map(_numbers, self.arguments))
        value, grad, count, first = formula.step.forward(read, arguments, self.levels, gradient)
        if count:
            input, target = tensors[0], tensors[len(self.levels)]
            dense = target.is_floating_point() and input.shape[1] == 1
            refuse_labels(count, first, input.shape[1], dense=dense)
        dtype = torch.float32 if formula.program.single else torch.float64
        return torch.scalar_tensor(value, dtype=dtype, device=CPU), grad

    def derive_directly(self, grad: bytes, factor: Tensor, tensors: Tensors) -> list[Tensor] | None:
        if torch.is_grad_enabled() or watched():
            return None
        inputs = tensors[: len(self.levels)]
        found = [torch.empty_like(x) for x in inputs]
        served = self.formula.step.backward(grad, factor, tensors, tuple(found))
        return found if served else None

    def derive(self, grad: bytes, factor: Tensor, tensors: Tensors) -> list[Tensor]:
        inputs, targets, weights = self.split(tensors)
        count, items, classes = self.formula.program.rows
        rows = torch.frombuffer(bytearray(grad), dtype=torch.float64)
        rows = rows.view(count, items * len(inputs), classes)
        ignored = self.formula.options.ignore_index
        pairs = zip(inputs, targets, strict=True)
        targets = [check_target(*pair, ignored) for pair in pairs]
        return Call(*self).derive(rows, factor, (*inputs, *targets, *weights))


def native_step(program: Program, options: Options) -> Any:  # noqa: ANN401
    """Return the sums and the formula in C++."""
    assert _C is not None
    return _C.Step(program.native, *native.codes(options))


def watched() -> bool:
    """Whether somebody looks on who must see operators."""
    if torch.compiler.is_compiling() or transforms_active():
        return True
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._is_tracing()


def read_plain(tensors: Tensors) -> Any:  # noqa: ANN401
    """Return where the numbers of tensors lie; None if somebody looks on, or one is no plain one.

    Plain is a tensor on the CPU whose memory holds its numbers.
    """
    return None if _C is None or watched() else _C.read_plain(tensors)


def kinds_of(tensors: Tensors) -> Any:  # noqa: ANN401
    """Return what tensors are like, to read others that are so; None as read_plain."""
    if _C is None or read_plain(tensors) is None:
        return None
    return _C.Kinds(tuple((tensor.shape, tensor.dtype) for tensor in tensors))


def _numbers(argument: Tensor) -> Tensor:
    """Return an argument as contiguous float64 on the CPU."""
    argument = argument.resolve_neg().to("cpu", torch.float64)
    return argument if argument.is_contiguous() else argument.contiguous()
