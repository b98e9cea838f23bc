"""region_sums and a formula of its sums as one node of autograd, which holds the gradient ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from segloss_fast._check import BYTES, as_weight, is_batched
from segloss_fast.ops._formula import Program
from segloss_fast.ops._voxels.checks import check_target, check_voxel_weight
from segloss_fast.ops.region_sums import contract, direct
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

    @cached_property
    def step(self) -> Any:  # noqa: ANN401
        """The sums and the formula in C++."""
        return direct.native_step(self.program, self.options)


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
    impl = contract.choose(formula.impl, inputs, targets, weights, options)
    if impl == "reference":
        return None
    weights = [contract.readable(weight, impl) for weight in weights]
    tensors = (*inputs, *targets, *weights)
    of_call = formula, impl, tuple(arguments), tuple(levels)
    read = direct.read_plain(tensors) if impl == "native" else None
    call = direct.Call(*of_call) if read is None else direct.DirectCall(*of_call)
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        return _Node.apply(call, read, *tensors)  # type: ignore[no-any-return,no-untyped-call]
    return call.run(tensors, read, gradient=False)[0]


def apply_direct(call: direct.DirectCall, tensors: tuple[Tensor, ...], read: Any) -> Tensor:  # noqa: ANN401
    """Return the number of a call of one input that has been read, as region_formula."""
    if torch.is_grad_enabled() and tensors[0].requires_grad:
        return _apply(call, read, *tensors)  # type: ignore[no-any-return,no-untyped-call]
    return call.run(tensors, read, gradient=False)[0]


class _Node(torch.autograd.Function):
    """From the inputs to the number: what a step has of autograd is this node alone."""

    @staticmethod
    def forward(ctx: Any, call: direct.Call, read: Any, *tensors: Tensor) -> Tensor:  # noqa: ANN401
        loss, ctx.grad = call.run(tensors, read, gradient=True)
        ctx.save_for_backward(*tensors)
        ctx.call = call
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        tensors, factor = ctx.saved_tensors, grads[0]
        found = ctx.call.derive_directly(ctx.grad, factor, tensors)
        if found is None:
            found = _derived(ctx.call, ctx.grad, factor, tensors)
        return None, None, *found, *[None] * (len(tensors) - len(found))


# As _Node.apply, but for torch's look at wrappers that its transforms leave behind: whose tensors
# have been read need none, and it takes as long as half of the node.
_apply = super(torch.autograd.Function, _Node).apply


def _derived(
    call: direct.Call,
    grad: Any,  # noqa: ANN401
    factor: Tensor,
    tensors: tuple[Tensor, ...],
) -> list[Tensor]:
    if not (is_batched(factor) or torch._C._functorch.is_legacy_batchedtensor(factor)):
        return call.derive(grad, factor, tensors)
    # Many at once, which kernels know nothing of: their results are multiples of one.
    one = torch.ones((), dtype=factor.dtype, device=factor.device)
    return [factor * of_one for of_one in call.derive(grad, one, tensors)]
