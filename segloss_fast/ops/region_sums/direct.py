"""A formula of sums: by torch's operators, or on the CPU in one call of C++ without them.

An operator of torch costs a small problem more than its kernels do, and most where other code ran
between two steps, as that of a network: each brings its own into the processor's caches. So the
module takes the tensors themselves, and reads where they lie (``csrc/region_sums/step.cpp``).

Who looks on must see operators: compilers, and the modes of torch that count, record or stand in
for operations. They get those of the dispatcher, and so do tensors that are no plain ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from segloss_fast._check import is_dense
from segloss_fast._impl import transforms_active
from segloss_fast._native import _C
from segloss_fast.ops._formula import Program, evaluate
from segloss_fast.ops._voxels.checks import check_target
from segloss_fast.ops._voxels.labels import refuse_labels
from segloss_fast.ops.region_sums import op
from segloss_fast.ops.region_sums.options import Options

if TYPE_CHECKING:
    from segloss_fast.ops.region_sums.formula import Formula

PLAIN = (Tensor, nn.Parameter)
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

    def run(self, tensors: Tensors, *, gradient: bool) -> tuple[Tensor, Any]:
        """Return the number, and what derive takes as its gradient in the sums."""
        rows = op.forward(self.impl, *self.split(tensors), self.formula.options)
        return evaluate(self.formula.program, rows, self.arguments, self.levels, gradient=gradient)

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

    def run(self, tensors: Tensors, *, gradient: bool) -> tuple[Tensor, bytes]:
        formula = self.formula
        arguments = self.arguments and tuple(map(_numbers, self.arguments))
        value, grad, count, first = formula.step.forward(tensors, arguments, self.levels, gradient)
        if count:
            input, target = tensors[0], tensors[len(self.levels)]
            dense = target.is_floating_point() and input.shape[1] == 1
            refuse_labels(count, first, input.shape[1], dense=dense)
        dtype = torch.float32 if formula.program.single else torch.float64
        return torch.scalar_tensor(value, dtype=dtype, device="cpu"), grad

    def derive(self, grad: bytes, factor: Tensor, tensors: Tensors) -> list[Tensor]:
        if torch.is_grad_enabled() or not serves((factor, *tensors)):
            return self._by_operators(grad, factor, tensors)
        inputs = tensors[: len(self.levels)]
        found = [torch.empty_like(x) for x in inputs]
        self.formula.step.backward(grad, factor, tensors, tuple(found))
        return found

    def _by_operators(self, grad: bytes, factor: Tensor, tensors: Tensors) -> list[Tensor]:
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
    return _C.Step(program.native, *op.codes(options))


def serves(tensors: Iterable[Tensor]) -> bool:
    """Whether nobody looks on, and all are tensors whose numbers lie on the CPU."""
    if torch.compiler.is_compiling() or transforms_active():
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._is_tracing():
        return False
    for tensor in tensors:
        if type(tensor) not in PLAIN or not tensor.is_cpu or not is_dense(tensor):
            return False
        if tensor.is_neg() or tensor._is_zerotensor():  # whose memory holds others, or is not there
            return False
    return True


def _numbers(argument: Tensor) -> Tensor:
    """Return an argument as contiguous float64 on the CPU."""
    argument = argument.resolve_neg().to("cpu", torch.float64)
    return argument if argument.is_contiguous() else argument.contiguous()
