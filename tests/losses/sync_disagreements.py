"""Ranks that do not call the same loss alike: what each does, and what all of them are told."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import segloss_fast as sf
from segloss_fast.losses._module import Loss
from tests.helpers import IMPLS, assert_close, gradient
from tests.losses.ranks import Task
from tests.losses.sync_cases import WithSkeleton

BINS = 1152


class Disagreement(NamedTuple):
    """One way to disagree.

    Attributes:
        note: What it is.
        ranks: How many there are.
        task: What each does.
        text: A part of the error, or None where the ranks get True instead.
    """

    note: str
    ranks: int
    task: Task
    text: str | None


def every(names: set[str]) -> list[Disagreement]:
    """Return them, of the losses of these names; a right call follows."""
    found = [*_of_names(names), *_of_shapes(), *_of_calls()]
    after = Disagreement("a right call afterwards", 3, _right_call, None)
    return [*found[:5], after, *found[5:], after]


def tasks(names: set[str]) -> list[tuple[int, Task]]:
    """Return how many ranks do what."""
    return [(one.ranks, one.task) for one in every(names)]


def expected(names: set[str]) -> list[tuple[str, str | None]]:
    """Return what each is, and its text."""
    return [(one.note, one.text) for one in every(names)]


def _data(classes: int = 3, items: int = 2, dtype: torch.dtype = torch.float32) -> Any:  # noqa: ANN401
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(items, classes, 4, 5, generator=generator, dtype=dtype).requires_grad_()
    return x, torch.randint(0, 3, (items, 4, 5), generator=generator)


def _loss(name: str, sync: dist.ProcessGroup, **own: Any) -> Loss:  # noqa: ANN401
    pooled = {} if name.startswith("Lovasz") or "batch" in own else {"batch": True}
    module: Any = WithSkeleton if name == "SkeletonRecallLoss" else getattr(sf, name)
    loss: Loss = module(sync=sync, **pooled, **own)
    return loss


def _differ(
    name: str,
    last: dict[str, Any],
    own: dict[str, Any],
    rank: int,
    group: dist.ProcessGroup,
) -> Tensor:
    """Call a loss; on the last rank with other data, or with keywords of its own."""
    data = last if rank == group.size() - 1 else {}
    keywords = own if rank == group.size() - 1 else {}
    common = {"shards": True, "batch": False} if "items" in data else {}
    x, target = _data(**data)
    result: Tensor = _loss(name, group, **common, **keywords)(x, target)
    return result


def _of_names(names: set[str]) -> Iterator[Disagreement]:
    for place, name in enumerate(sorted(names)):
        task = functools.partial(_differ, name, {"classes": 4}, {})
        yield Disagreement(f"{name}: classes", 2 + place % 2, task, "number of classes (here")
        task = functools.partial(_differ, name, {"dtype": torch.float64}, {})
        yield Disagreement(f"{name}: dtype", 3 - place % 2, task, "dtype of input (here float")


def _of_shapes() -> Iterator[Disagreement]:
    for name, data, own, text in (
        ("DiceLoss", {"items": 3}, {}, "number of items (here"),
        ("DiceLoss", {"items": 500, "classes": 4}, {}, "number of classes (here"),
        ("TopKLoss", {"items": 0}, {}, "number of items (here"),
        ("DiceLoss", {}, {"squared": True}, "kind of sums (here"),
        ("CrossEntropyLoss", {}, {"label_smoothing": 0.5}, "kind of sums (here 'nll"),
        ("DiceLoss", {}, {"activation": "sigmoid"}, "kind of sums (here 'tp"),
        ("LovaszHingeLoss", {}, {"bins": BINS}, "kind of sums (here 'lovasz hinge"),
    ):
        task = functools.partial(_differ, name, data, own)
        yield Disagreement(f"{name}: {data} {own}", 3, task, text)
    for name in ("DiceLoss", "GeneralizedWassersteinDiceLoss", "DiceTopKLoss"):
        task = functools.partial(_pooled_or_not, name)
        yield Disagreement(f"{name}: shards, pooled or not", 3, task, "kind of sums (here")
    if len(IMPLS) > 1:
        task = functools.partial(_differ, "LovaszSoftmaxLoss", {}, {"impl": "reference"})
        yield Disagreement("implementations of Lovász", 2, task, "kind of sums (here 'lovasz")


def _of_calls() -> Iterator[Disagreement]:
    yield Disagreement("other losses", 3, _other_losses, "kind of sums (here")
    yield Disagreement("with and without gradient", 2, _no_gradient, "gradient (here ")
    yield Disagreement("forward and backward", 2, _backward_alone, "kind of sums (here")
    yield Disagreement("dense and labels", 2, _dense, "kind of sums (here 'nll")
    yield Disagreement("as on CUDA", 3, _as_on_cuda, None)
    yield Disagreement("more than a block", 3, _more_than_a_block, None)


def _other_losses(rank: int, group: dist.ProcessGroup) -> Tensor:
    name = ("DiceLoss", "StructuralSimilarityLoss", "TopKLoss")[rank]
    result: Tensor = _loss(name, group)(*_data())
    return result


def _pooled_or_not(name: str, rank: int, group: dist.ProcessGroup) -> Tensor:
    result: Tensor = _loss(name, group, shards=True, batch=rank == 1)(*_data())
    return result


def _no_gradient(rank: int, group: dist.ProcessGroup) -> Tensor:
    with torch.set_grad_enabled(rank == 0):
        result: Tensor = _loss("LovaszSoftmaxLoss", group)(*_data())
    return result


def _backward_alone(rank: int, group: dist.ProcessGroup) -> Tensor:
    loss = _loss("DiceLoss", group)
    value: Tensor = loss(*_data())
    if rank == 0:
        value.backward()
    return value if rank == 0 else loss(*_data())


def _dense(rank: int, group: dist.ProcessGroup) -> Tensor:
    x, target = _data()
    target = torch.rand(x.shape) if rank else target
    result: Tensor = _loss("CrossEntropyLoss", group)(x, target)
    return result


def _of(loss: Any, target: Tensor, x: Tensor) -> Tensor:  # noqa: ANN401
    result: Tensor = loss(x, target)
    return result


def _right_call(rank: int, group: dist.ProcessGroup) -> bool:
    x, target = _data()
    value, grad = gradient(lambda x: _loss("DiceLoss", group)(x, target), x)
    alone, alone_grad = gradient(lambda x: sf.DiceLoss(batch=True)(x, target), x)
    # Every rank has the same share, so that the sums are three times as large.
    assert_close(value, alone, 1e-5)
    assert_close(grad, alone_grad, 1e-5)
    return True


def _as_on_cuda(rank: int, group: dist.ProcessGroup) -> bool:
    """Where the host would have to wait, there is NaN instead, and no error.

    TopK and the Lovász losses have more collectives, of a size that the ranks must have agreed
    upon: there the host waits, also where each rank has agreed with others before.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segloss_fast._collective.is_read_at_once", lambda device: False)
        _right_call(rank, group)
        x, target = _data(classes=3 + rank)
        for name in ("DiceLoss", "StructuralSimilarityLoss", "GeneralizedWassersteinDiceLoss"):
            loss = _loss(name, group)
            value, grad = gradient(functools.partial(_of, loss, target), x)
            assert value.isnan(), name
            assert grad.isnan().all(), name
        with sf.debug(True), pytest.raises(ValueError, match="number of classes"):
            _loss("DiceLoss", group)(x, target)
        for name in ("LovaszSoftmaxLoss", "TopKLoss"):
            loss = _loss(name, group)
            assert loss(*_data(classes=3)) > 0
            assert loss(*_data(classes=4)) > 0
            for classes in (3 + rank % 2, 3 + rank // 2, 3 + rank):
                with pytest.raises(ValueError, match="number of classes"):
                    loss(*_data(classes=classes))
            assert loss(*_data(classes=3)) > 0
    return True


def _more_than_a_block(rank: int, group: dist.ProcessGroup) -> bool:
    """Add 3 * 40 * 50 sums of shards."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 50, 6, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 50, (40, 6), generator=generator)
    whole, whole_grad = gradient(lambda x: sf.DiceLoss(reduction="none")(x, target), x)
    own = target[:, rank::3]
    loss = sf.DiceLoss(reduction="none", sync=group, shards=True)
    value, grad = gradient(lambda x: loss(x, own), x[:, :, rank::3])
    assert_close(value, whole, 1e-12)
    assert_close(grad / 3, whole_grad[:, :, rank::3], 1e-12)
    return True
