"""confusion_sums as operators of torch: schemas, shape rules, derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops.confusion_sums import kernels

_ARGUMENTS = (
    "Tensor input, Tensor target, Tensor? voxel_weight, str activation, int? ignore_index, str impl"
)
torch.library.define("segloss_fast::confusion_sums", f"({_ARGUMENTS}) -> Tensor")
torch.library.define(
    "segloss_fast::confusion_sums_backward", f"(Tensor grad_sums, {_ARGUMENTS}) -> Tensor"
)
for _device in ("CPU", "CUDA"):
    torch.library.impl("segloss_fast::confusion_sums", _device, kernels.forward)
    torch.library.impl("segloss_fast::confusion_sums_backward", _device, kernels.backward)


@torch.library.register_fake("segloss_fast::confusion_sums")
def _forward_fake(input: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
    classes = input.shape[1]
    return input.new_empty((input.shape[0], classes, classes + 1), dtype=torch.float64)


@torch.library.register_fake("segloss_fast::confusion_sums_backward")
def _backward_fake(grad_sums: Tensor, input: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
    return torch.empty_like(input)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    ctx.save_for_backward(*inputs[:3])
    ctx.options = inputs[3:]


def _derivative(ctx: Any, grad_sums: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    operator = torch.ops.segloss_fast.confusion_sums_backward
    return operator(grad_sums, *ctx.saved_tensors, *ctx.options), *[None] * 5


def _double_backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    raise RuntimeError(
        "confusion_sums has no second derivative in its kernels; "
        "use impl='reference' for double backward"
    )


torch.library.register_autograd("segloss_fast::confusion_sums", _derivative, setup_context=_save)
torch.library.register_autograd("segloss_fast::confusion_sums_backward", _double_backward)


def call(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    activation: str,
    ignore_index: int | None,
    impl: str,
) -> Tensor:
    """Return the sums by the kernels that ``impl`` names."""
    operator = torch.ops.segloss_fast.confusion_sums
    sums: Tensor = operator(input, target, voxel_weight, activation, ignore_index, impl)
    return sums
