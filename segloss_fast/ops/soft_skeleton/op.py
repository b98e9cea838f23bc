"""soft_skeleton as operators of torch: schemas, shape rules, derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops.soft_skeleton import kernels

_ARGUMENTS = "Tensor values, int iterations, int first, str impl"
torch.library.define("segloss_fast::soft_skeleton", f"({_ARGUMENTS}) -> Tensor")
torch.library.define(
    "segloss_fast::soft_skeleton_backward", f"(Tensor grad, {_ARGUMENTS}) -> Tensor"
)
for _device in ("CPU", "CUDA"):
    torch.library.impl("segloss_fast::soft_skeleton", _device, kernels.forward)
    torch.library.impl("segloss_fast::soft_skeleton_backward", _device, kernels.backward)


@torch.library.register_fake("segloss_fast::soft_skeleton")
def _fake(values: Tensor, iterations: int, first: int, impl: str) -> Tensor:
    return torch.empty_like(values)


@torch.library.register_fake("segloss_fast::soft_skeleton_backward")
def _backward_fake(grad: Tensor, values: Tensor, iterations: int, first: int, impl: str) -> Tensor:
    return torch.empty_like(values)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    values, *ctx.options = inputs
    ctx.save_for_backward(values)


def _derivative(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    operator = torch.ops.segloss_fast.soft_skeleton_backward
    return operator(grad, *ctx.saved_tensors, *ctx.options), None, None, None


def _double_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    raise RuntimeError(
        "soft_skeleton has no second derivative in its kernels; "
        "use impl='reference' for double backward"
    )


torch.library.register_autograd("segloss_fast::soft_skeleton", _derivative, setup_context=_save)
torch.library.register_autograd("segloss_fast::soft_skeleton_backward", _double_backward)


def call(values: Tensor, iterations: int, first: int, impl: str) -> Tensor:
    """Return the skeletons by the kernels that ``impl`` names."""
    result: Tensor = torch.ops.segloss_fast.soft_skeleton(values, iterations, first, impl)
    return result
