"""region_sums and a formula of its sums as one node of autograd, which holds the gradient ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segloss_fast._check import BYTES, as_weight
from segloss_fast.ops._formula import Program, evaluate
from segloss_fast.ops._voxels.checks import check_target, check_voxel_weight
from segloss_fast.ops.region_sums import contract, op
from segloss_fast.ops.region_sums.options import Options


@dataclass(frozen=True)
class Formula:
    """What is made of the sums of a call.

    Attributes:
        options: The sums.
        impl: As for region_sums.
        program: The formula, traced (:mod:`segloss_fast.ops._formula`).
    """

    options: Options
    impl: str
    program: Program


def region_formula(
    formula: Formula,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    voxel_weights: Sequence[Tensor],
    arguments: Sequence[Tensor],
    levels: Sequence[float] = (1.0,),
) -> Tensor | None:
    """Return the weighted sum over inputs of a formula of their sums, a number.

    Args:
        formula: What is computed; its program was traced for inputs of this kind, which have been
            checked then.
        inputs: As for region_sums_multi.
        targets: Likewise.
        voxel_weights: Likewise, or none at all.
        arguments: Those of the program.
        levels: A weight for each of the inputs.

    Returns:
        The number; None where kernels do not serve the call.

    Raises:
        As region_sums and region_sums_multi.
    """
    options = formula.options
    pairs = zip(inputs, targets, strict=True)
    targets = [check_target(x, target, options.ignore_index) for x, target in pairs]
    weights = [as_weight(weight, keep=BYTES) for weight in voxel_weights]
    for x, weight in zip(inputs, weights, strict=False):
        check_voxel_weight(x, weight, contract.WEIGHTS)
    if len(inputs) > 1:
        contract.check_alike(inputs, targets, weights)
    impl = contract.choose(formula.impl, inputs, targets, weights)
    if impl == "reference":
        return None
    weights = [contract.readable(weight, impl) for weight in weights]
    call = _Call(formula, impl, tuple(arguments), tuple(levels))
    tensors = (*inputs, *targets, *weights)
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        return _Node.apply(call, *tensors)  # type: ignore[no-any-return,no-untyped-call]
    return call.run(tensors, gradient=False)[0]


class _Call(NamedTuple):
    formula: Formula
    impl: str
    arguments: tuple[Tensor, ...]
    levels: tuple[float, ...]

    def split(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return inputs, targets and voxel weights."""
        n = len(self.levels)
        if n == 1:
            return [tensors[0]], [tensors[1]], list(tensors[2:])
        return list(tensors[:n]), list(tensors[n : 2 * n]), list(tensors[2 * n :])

    def run(self, tensors: Sequence[Tensor], *, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Return the number, and its gradient in the rows."""
        rows = op.forward(self.impl, *self.split(tensors), self.formula.options)
        return evaluate(self.formula.program, rows, self.arguments, self.levels, gradient=gradient)


class _Node(torch.autograd.Function):
    """From the inputs to the number: what a step has of autograd is this node alone."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> Tensor:  # noqa: ANN401
        loss, grad = call.run(tensors, gradient=True)
        ctx.save_for_backward(*tensors, grad)
        ctx.call = call
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        *tensors, grad = ctx.saved_tensors
        call, rows = ctx.call, grad * grads[0]
        options = call.formula.options
        if torch.is_grad_enabled():  # a second derivative may follow: the operator refuses it
            operator = torch.ops.segloss_fast.region_sums_multi_backward
            found = operator(rows, *call.split(tensors), *op.arguments(options, call.impl))
        else:
            inputs, targets, weights = call.split(tensors)
            found = op.backward(call.impl, rows, inputs, targets, weights, options)
        return None, *found, *[None] * (len(tensors) - len(found))
