"""Raw operators with arguments that no public function passes: an error, or a harmless answer.

The calls are those that public ones make, each with an argument or two changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import segloss_fast
from segloss_fast.ops._operator import Kernels
from segloss_fast.ops._voxels import plain
from segloss_fast.ops.confusion_sums import confusion_sums
from segloss_fast.ops.hardest_voxels import Rule, hardest_voxels
from segloss_fast.ops.structural_error import structural_error
from tests.fuzz.draw import Draw

INTEGERS = (-1, 0, 1, 2, 3, 7, 255, 2**31 - 1, 2**31, 2**40, -(2**31), -(2**63), 2**63 - 1)
NUMBERS = (0.0, -1.0, 0.5, 1e-320, 1e38, 1e300, torch.inf, -torch.inf, torch.nan)
DTYPES = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16),
    *(torch.bfloat16, torch.float32, torch.float64, torch.complex64),
)
Call = tuple[Callable[..., Any], tuple[Any, ...]]


def _copied(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(each) for each in value)
    return value


def record() -> list[Call]:
    """Return a call of every raw operator that the public ones reach, by its name."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5, 6, requires_grad=True)
    labels, mask = torch.randint(3, (2, 4, 5, 6)), torch.rand(2, 3, 4, 5, 6) > 0.5
    bins = torch.randint(3, (2, 1, 4, 5, 6), dtype=torch.int32)
    native: Any = {"impl": "native"}
    seen: list[Call] = []
    step = Kernels.step

    def recording(kernels: Kernels, impl: str, name: str) -> Callable[..., Any]:
        launch = step(kernels, impl, name)

        def recorded(*arguments: Any) -> Any:  # noqa: ANN401
            seen.append((launch, _copied(arguments)))
            return launch(*arguments)

        return recorded

    # Which reads plain tensors in C++, without the raw operators.
    unread = patch.object(plain, "read_plain", return_value=None)
    with patch.object(Kernels, "step", recording), unread:
        sums = [segloss_fast.region_sums(x, labels, terms=("tp", "nll"), **native).nll]
        sums += [
            segloss_fast.lovasz(x, labels, method=method, cross_entropy=True, **native).loss
            for method in ("sort", "histogram")
        ]
        sums += [confusion_sums(x, labels, **native)]
        sums += [segloss_fast.component_sums(x, labels, bins, count=2, **native).rows]
        sums += [
            structural_error(x, mask.float(), window_size=3, sigma=1.5, constant=0.1, **native)
        ]
        sums += [segloss_fast.SoftClDiceLoss(**native)(x, labels)]
        for each in sums:
            torch.autograd.grad(each.double().sum(), x)
        hardest_voxels(x.detach(), labels, None, Rule(10.0, "softmax"), **native)
        segloss_fast.distance_transform(mask, 0.5, **native)
        segloss_fast.nearest_component(bins, 0.5, distance=True, **native)
        segloss_fast.connected_components(bins, by_value=True, **native)
        segloss_fast.BoundaryLoss()(x.detach(), labels)
    found = {str(call[0]): call for call in seen}
    return [found[name] for name in sorted(found)]


def run(seed: int, recorded: list[Call]) -> str:
    """Make a changed call; return what came of it."""
    draw = Draw(seed)
    operator, arguments = recorded[seed % len(recorded)]
    changed = list(_copied(arguments))
    for _ in range(draw.random.choice((1, 1, 2))):
        place = draw.random.randrange(len(changed))
        changed[place] = _changed(draw, changed[place])
    try:
        with torch.no_grad():
            operator(*changed)
        return "served"
    except (RuntimeError, ValueError, TypeError, MemoryError, IndexError) as error:
        said = str(error)
    if "INTERNAL ASSERT" in said:
        raise AssertionError(f"{operator}: {said}")
    return "refused"


def _changed(draw: Draw, value: Any) -> Any:  # noqa: ANN401
    pick = draw.random.choice
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return pick(INTEGERS)
    if isinstance(value, float):
        return pick(NUMBERS)
    if isinstance(value, Tensor):
        return _changed_tensor(draw, value)
    if isinstance(value, (list, tuple)):
        kept = list(value)
        if not kept or pick((True, False, False)):
            return pick(([], kept * 2, kept[:1] * 40, list(reversed(kept))))
        place = draw.random.randrange(len(kept))
        kept[place] = _changed(draw, kept[place])
        return kept
    return pick((None, 0, 255, -(2**63))) if value is None else value


def _changed_tensor(draw: Draw, tensor: Tensor) -> Tensor:
    pick, rank = draw.random.choice, tensor.dim()
    dim = draw.random.randrange(rank) if rank else 0
    ways: list[Callable[[], Tensor]] = [
        lambda: tensor.to(pick(DTYPES)),
        lambda: draw.lay_out(tensor),
        lambda: tensor[None],
        lambda: tensor[..., None],
        lambda: tensor.flatten(),
        lambda: torch.zeros((), dtype=tensor.dtype).expand(pick(((2**40, 2, 2**20), tensor.shape))),
        lambda: torch.full_like(tensor, pick((0, 1, 77, 127))),
    ]
    if rank:
        ways += [
            lambda: tensor.narrow(dim, 0, pick((0, 1, max(tensor.shape[dim] - 1, 0)))),
            lambda: torch.cat([tensor, tensor], dim),
            lambda: tensor.transpose(0, dim),
            lambda: tensor.select(dim, 0) if tensor.shape[dim] else tensor,
        ]
    if tensor.is_floating_point():
        ways.append(lambda: torch.full_like(tensor, pick(NUMBERS)))
    elif tensor.dtype not in (torch.bool, torch.uint8):
        ways.append(lambda: torch.full_like(tensor, torch.iinfo(tensor.dtype).min))
    try:
        return pick(ways)()
    except RuntimeError:  # torch's own, of a tensor that cannot be changed so
        return tensor
