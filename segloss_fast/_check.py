"""Checks of user input: each error names the argument, what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
REAL = (*FLOATING, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
INTEGER = REAL[len(FLOATING) :]
BYTES = (torch.bool, torch.uint8)


def check_option(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise TypeError unless ``value`` is a str, ValueError unless it is one of ``allowed``."""
    if isinstance(value, str) and value in allowed:
        return
    names = ", ".join(map(repr, allowed))
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, one of {names}, got {type(value).__name__}")
    raise ValueError(f"{name} must be one of {names}, got {value!r}")


def softmax_of_one_class(input: Tensor, instead: str) -> ValueError:
    """Return the error to raise where an input of one class is to be activated by a softmax."""
    return ValueError(
        "the softmax of one class is 1 everywhere: input must have at least two classes with "
        f"activation 'softmax', got shape {list(input.shape)}; use {instead}"
    )


def is_dense(tensor: Tensor) -> bool:
    """Whether the tensor has a shape, and a place in memory for each of its values."""
    return tensor.layout is torch.strided and not tensor.is_nested


def check_dtype(name: str, tensor: object, allowed: Sequence[torch.dtype]) -> None:
    """Raise TypeError unless ``tensor`` is a dense tensor of one of the dtypes."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if not is_dense(tensor):
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise TypeError(f"{name} must be a dense tensor, got a {kind.removeprefix('_')} one")
    if tensor.dtype not in allowed:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise TypeError(f"{name} must have one of the dtypes {names}, got {tensor.dtype}")


def check_input(input: object) -> None:
    """Raise unless ``input`` is a floating-point ``[B, C, *S]``, S of one to three dimensions."""
    check_dtype("input", input, FLOATING)
    assert isinstance(input, Tensor)
    if not 3 <= input.dim() <= 5:
        raise ValueError(
            "input must be [B, C, *S] with one to three spatial dimensions, "
            f"got shape {list(input.shape)}"
        )
    if input.shape[1] == 0:
        raise ValueError(f"input must have at least one class, got shape {list(input.shape)}")


def as_weight(voxel_weight: Any, keep: tuple[torch.dtype, ...] = ()) -> Any:  # noqa: ANN401
    """Return voxel weights of truth values or integers as floating-point ones of the same value.

    Args:
        voxel_weight: A tensor; anything else is returned as it is.
        keep: Dtypes that need not be floating point.
    """
    if not isinstance(voxel_weight, Tensor) or voxel_weight.dtype not in INTEGER:
        return voxel_weight
    if voxel_weight.dtype in keep:
        return voxel_weight
    wide = voxel_weight.dtype in (torch.int32, torch.int64)
    return voxel_weight.to(torch.float64 if wide else torch.float32)


def widen(tensor: Tensor) -> Tensor:
    """Return half precision as float32: before arithmetic, which would be rounded to it."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def check_device(name: str, tensor: Tensor, input: Tensor) -> None:
    """Raise ValueError unless ``tensor`` lies on the input's device."""
    if tensor.device != input.device:
        raise ValueError(
            f"{name} must be on the device of input, {input.device}, got {tensor.device}"
        )


def is_batched(tensor: Tensor) -> bool:
    """Whether this is a tensor of torch.func.vmap, whose values nobody may look at."""
    if torch.compiler.is_compiling():
        return False
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def writable(tensor: Tensor, other: Tensor) -> Tensor:
    """Return the tensor, into which the other may be added or multiplied in place.

    Of torch.func.vmap it is a batch where the other is one: no batch is written into a tensor
    without.
    """
    return tensor + torch.zeros_like(other, dtype=tensor.dtype) if is_batched(other) else tensor


def check_number(
    name: str, value: object, *, minimum: float = -math.inf, maximum: float = math.inf
) -> None:
    """Raise unless ``value`` is a finite number within the bounds."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    # abs, not math.isfinite, which torch.compile cannot trace for a number that changes.
    if not (minimum <= value <= maximum and abs(value) < math.inf):
        least = f" of at least {minimum:g}" if minimum > -math.inf else ""
        most = f" of at most {maximum:g}" if maximum < math.inf else ""
        raise ValueError(f"{name} must be a finite number{least}{most}, got {value}")


def check_positive(name: str, value: object) -> None:
    """Raise unless ``value`` is a finite number above 0."""
    check_number(name, value, minimum=0)
    if value == 0:
        raise ValueError(f"{name} must be greater than 0, got 0")


def check_ignore_index(ignore_index: object) -> None:
    """Raise TypeError unless ``ignore_index`` is an int or None, ValueError if beyond int64."""
    if ignore_index is None:
        return
    if not isinstance(ignore_index, int) or isinstance(ignore_index, bool):
        raise TypeError(f"ignore_index must be an int or None, got {type(ignore_index).__name__}")
    if not -(2**63) <= ignore_index < 2**63:
        raise ValueError(f"ignore_index must fit into int64, got {ignore_index}")


def check_flag(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
