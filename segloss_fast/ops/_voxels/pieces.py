"""Sums over voxels by a reference, in pieces, so that no map of a whole volume is made.

A definition in plain PyTorch makes maps of the whole volume, a dozen of them, and the autograd
graph keeps most. On the CPU it spends its time in fresh memory: the pages of new maps cost more
than the arithmetic on them. Sums over voxels are those of pieces added up, so that the maps of one
piece at a time suffice; the gradient computes them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from segloss_fast._impl import transforms_active
from segloss_fast.ops._voxels.maps import BLOCK

# Values of an input up to which all is computed at once: the allocator keeps such maps.
WHOLE = 2**22
PIECE = 2**19  # values of a piece
# From an input, a target and voxel weights or None to their sums, and the labels out of range.
Definition = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
Part = tuple[int, int, int, int]  # the first item, how many; the first voxel, how many


def sum_in_pieces(
    definition: Definition,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    axis: int,
    whole: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what the definition returns, computed in pieces where that pays.

    Compilers, the transforms of torch.func, second derivatives, other devices and small inputs get
    the definition itself.

    Args:
        definition: To sums that hold items along an axis and add up over voxels, and to ``[2]``:
            how many labels are out of range, and the first.
        input: ``[B, C, *S]``.
        target: ``[B, *S]`` or ``[B, C, *S]``.
        weight: ``[B, 1, *S]`` or ``[B, C, *S]``, or None.
        axis: That of the items in the sums.
        whole: Values of an input up to which all is computed at once, those of WHOLE if None.
    """
    whole = WHOLE if whole is None else whole
    if not is_plain(input, target, weight) or input.numel() <= whole:
        return definition(input, target, weight)
    found: tuple[Tensor, Tensor] = _InPieces.apply(definition, axis, input, target, weight)  # type: ignore[no-untyped-call]
    return found


def first_invalid(found: Tensor) -> Tensor:
    """Return ``[2]``, of ``[n, 2]``: how many labels are out of range in all, and the first."""
    # The first row that has some: argmax takes the first of equals.
    row = (found[:, 0] > 0).to(torch.uint8).argmax(0, keepdim=True)
    return torch.cat([found[:, 0].sum()[None], found[:, 1].gather(0, row)])


def computed_again(function: Callable[..., Tensor], *arguments: Any) -> Tensor:  # noqa: ANN401
    """Return what a function of tensors returns; backward computes it again and keeps nothing.

    The transforms of torch.func take no such function, and get the function itself.
    """
    if transforms_active():
        return function(*arguments)
    found: Tensor = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return found


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether these are ordinary tensors on the CPU, whose values Python may look at.

    Not those of compilers, of the transforms of torch.func, and of forward-mode derivatives.
    """
    if torch.compiler.is_compiling() or transforms_active():
        return False
    return all(
        tensor.device.type == "cpu" and type(tensor) in (Tensor, torch.nn.Parameter)
        for tensor in tensors
        if tensor is not None
    )


def _parts(input: Tensor) -> Iterator[Part]:
    """Yield pieces in the order of voxels: several items, one, or a part of one."""
    items, classes, voxels = input.shape[0], input.shape[1], input.shape[2:].numel()
    room = max(1, PIECE // classes)
    room = room // BLOCK * BLOCK or room
    group = max(1, room // voxels)
    for item in range(0, items, group):
        for voxel in range(0, voxels, room):
            yield item, min(group, items - item), voxel, min(room, voxels - voxel)


def _take(tensor: Tensor, part: Part) -> Tensor:
    """Return a part of ``[B, ..., N]``."""
    return tensor.narrow(0, *part[:2]).narrow(-1, *part[2:])


class _InPieces(torch.autograd.Function):
    """The definition's sums and their derivatives, a piece at a time."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        ctx.definition, ctx.axis, *tensors = arguments
        ctx.save_for_backward(*tensors)
        flat = _flatten(tensors)
        sums: dict[int, Tensor] = {}
        invalid = []
        for part in _parts(tensors[0]):
            found, labels = ctx.definition(*(None if t is None else _take(t, part) for t in flat))
            sums[part[0]] = found if part[2] == 0 else sums[part[0]] + found
            invalid.append(labels)
        labels = first_invalid(torch.stack(invalid))
        ctx.mark_non_differentiable(labels)
        return torch.cat(list(sums.values()), ctx.axis), labels

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        tensors, wanted = ctx.saved_tensors, ctx.needs_input_grad[2:]
        defined = as_defined(ctx.definition, tensors, wanted, grads[0])
        if defined is not None:
            return None, None, *defined
        flat = _flatten(tensors)
        out = [torch.empty_like(t) if w else None for t, w in zip(flat, wanted, strict=True)]
        for part in _parts(tensors[0]):
            pieces = [
                None if t is None else _take(t, part).detach().requires_grad_(w)
                for t, w in zip(flat, wanted, strict=True)
            ]
            grad = grads[0].narrow(ctx.axis, *part[:2])
            found = _differentiate(ctx.definition, pieces, wanted, grad, again=False)
            for whole, piece in zip(out, found, strict=True):
                if whole is not None:
                    _take(whole, part).copy_(piece)
        shaped = zip(out, tensors, strict=True)
        return None, None, *(None if o is None else o.view(t.shape) for o, t in shaped)


def _flatten(tensors: Sequence[Any]) -> list[Any]:
    """Return the input, target and weights with their voxels along one axis.

    Views, but of layouts whose voxels do not follow each other.
    """
    dims = tensors[0].dim()
    return [
        None if tensor is None else tensor.detach().flatten(tensor.dim() - dims + 2)
        for tensor in tensors
    ]


def as_defined(
    definition: Callable[..., tuple[Tensor, Any]],
    tensors: Sequence[Any],
    wanted: Sequence[bool],
    grad: Tensor,
) -> list[Any] | None:
    """Return the gradients by the definition where only it serves, None elsewhere.

    It does if a second derivative may follow, or if many gradients come at once (is_grads_batched).

    Args:
        definition: From the tensors to what is differentiated, and something else.
        tensors: What the definition takes, or None in their place.
        wanted: Which of them want a gradient.
        grad: That of what is differentiated.
    """
    again = torch.is_grad_enabled()
    if again or torch._C._functorch.is_legacy_batchedtensor(grad):
        return _differentiate(definition, tensors, wanted, grad, again=again)
    return None


def _differentiate(
    definition: Callable[..., tuple[Tensor, Any]],
    tensors: Sequence[Any],
    wanted: Sequence[bool],
    grad: Tensor,
    *,
    again: bool,
) -> list[Any]:
    """Return the gradients of the tensors that want one, None for the others."""
    with torch.enable_grad():
        # Of aliases: none is made from another one, as the tensors themselves may be.
        tensors = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]
        sums, _ = definition(*tensors)
    inputs = [tensor for tensor, wants in zip(tensors, wanted, strict=True) if wants]
    if not sums.requires_grad:  # those that are asked for depend on none of them
        return [torch.zeros_like(t) if w else None for t, w in zip(tensors, wanted, strict=True)]
    options = {"create_graph": again, "allow_unused": True, "materialize_grads": True}
    found = iter(torch.autograd.grad(sums, inputs, grad, **options))
    return [next(found) if wants else None for wants in wanted]
