"""confusion_sums as operators of torch, and its kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segloss_fast._native import _C
from segloss_fast.ops._operator import Direct, Kernels, Native, Triton, define_both, no_float64
from segloss_fast.ops._voxels import plain
from segloss_fast.ops._voxels.labels import marked, refuse_labels
from segloss_fast.ops._voxels.maps import ACTIVATIONS

kernels = Kernels("confusion_sums", Native(cuda=False), Triton(no_float64))


def forward(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    activation: str,
    ignore_index: int | None,
    impl: str,
) -> Tensor:
    """Return the sums by the kernels that ``impl`` names; raise ValueError for invalid labels."""
    code = ACTIVATIONS.index(activation)
    read = _read(impl, input, target, voxel_weight)
    if read is not None:
        batch, classes = input.shape[:2]
        sums = torch.empty((batch, classes, classes + 1), dtype=torch.float64, device="cpu")
        count, first = _C.confusion_sums(read, code, ignore_index, sums)  # type: ignore[union-attr]
        if count:
            refuse_labels(count, first, classes)
        return sums
    launch = kernels.step(impl, "forward")
    sums, invalid = launch(input, target, voxel_weight, code, ignore_index)
    return marked(sums, invalid, input, target)


def backward(
    grad_sums: Tensor,
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    activation: str,
    ignore_index: int | None,
    impl: str,
    factor: Tensor | None = None,
) -> Tensor:
    """Return the gradient of the input, given that of the sums, perhaps without a factor of it."""
    code = ACTIVATIONS.index(activation)
    read = _read(impl, input, target, voxel_weight)
    others = (grad_sums,) if factor is None else (grad_sums, factor)
    if read is not None and plain.read_plain(impl, *others) is not None:
        found = torch.empty_like(input)
        of = grad_sums.contiguous(), factor, read, code, ignore_index
        _C.confusion_sums_backward(*of, found)  # type: ignore[union-attr]
        return found
    if factor is not None:
        grad_sums = grad_sums * factor
    launch = kernels.step(impl, "backward")
    grad: Tensor = launch(grad_sums, input, target, voxel_weight, code, ignore_index)
    return grad


def _read(impl: str, input: Tensor, target: Tensor, voxel_weight: Tensor | None) -> Any:  # noqa: ANN401
    weights = () if voxel_weight is None else (voxel_weight,)
    return plain.read_plain(impl, input, target, *weights)


def _fake(input: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
    classes = input.shape[1]
    return input.new_empty((input.shape[0], classes, classes + 1), dtype=torch.float64)


_operator = define_both(
    kernels,
    ("Tensor input", "Tensor target", "Tensor? voxel_weight"),
    "str activation, int? ignore_index, str impl",
    (forward, backward),
    _fake,
    "grad_sums",
)


def _kernel(*arguments: Any) -> tuple[Tensor]:  # noqa: ANN401
    return (forward(*arguments),)


def _save(ctx: Any, arguments: tuple[Any, ...], output: tuple[Tensor]) -> None:  # noqa: ANN401
    ctx.save_for_backward(*arguments[:3])
    ctx.options = arguments[3:]


def _derivative(ctx: Any, grad_sums: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    step = backward if ctx.direct else torch.ops.segloss_fast.confusion_sums_backward
    return step(grad_sums, *ctx.saved_tensors, *ctx.options), *[None] * 5


_DIRECTLY = _kernel, _save, _derivative, 1


def call(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    activation: str,
    ignore_index: int | None,
    impl: str,
) -> Tensor:
    """Return the sums, differentiable, by the kernels that ``impl`` names."""
    arguments = input, target, voxel_weight, activation, ignore_index, impl
    # Compilers, and subclasses such as fake and distributed tensors, need the operator itself.
    if torch.compiler.is_compiling() or type(input) is not Tensor:
        return _operator(*arguments)  # type: ignore[no-any-return]
    return Direct.apply(_DIRECTLY, *arguments)[0]  # type: ignore[no-any-return,no-untyped-call]
