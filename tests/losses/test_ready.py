"""The last call of a loss is kept for the next one: what may change between them, and shows."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import segloss_fast as sf
from segloss_fast._native import _C
from tests.helpers import count_operators, forget_plans, has_plan
from tests.losses.ready_cases import SHAPE, problem, ready, same_as_alone

pytestmark = pytest.mark.skipif(_C is None, reason="the native module is not built")


@pytest.fixture(autouse=True)
def no_plans_before(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_plans(monkeypatch)


LOSSES: dict[str, Callable[..., Any]] = {
    "Dice": sf.DiceLoss,
    "DiceCE": sf.DiceCELoss,
    "weighted": lambda: sf.DiceCELoss(class_weight=[1.0, 2.0, 0.5]),
}


@contextmanager
def wide_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


by_loss = pytest.mark.parametrize("name", LOSSES)
by_context = pytest.mark.parametrize(
    "context",
    [
        lambda: torch.autocast("cpu", torch.bfloat16),
        wide_by_default,
        lambda: torch.autograd.set_detect_anomaly(True),
        deterministic,
        lambda: sf.use_impl("reference"),
        lambda: torch.device("cpu"),
        count_operators,
        lambda: torch.autograd.graph.save_on_cpu(),
    ],
    ids=["autocast", "default", "anomaly", "deterministic", "impl", "device", "mode", "saved"],
)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@by_context
@by_loss
def test_settings_of_torch(name: str, context: Callable[..., AbstractContextManager[Any]]) -> None:
    x, labels = problem()
    loss = ready(LOSSES[name]())
    with context():
        same_as_alone(lambda x: loss(x, labels), x)
    same_as_alone(lambda x: loss(x, labels), x)


def test_a_default_device_is_not_the_tensors() -> None:
    x, labels = problem()
    loss = ready(sf.DiceCELoss())
    true = loss(x, labels)
    with torch.device("meta"):
        assert torch.equal(loss(x, labels), true)
        assert torch.equal(sf.DiceCELoss()(x, labels), true)


@by_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes(name: str, dtype: torch.dtype) -> None:
    loss = ready(LOSSES[name]())
    x, labels = problem(dtype)
    for kind in (torch.uint8, torch.int32, torch.float32):
        same_as_alone(lambda x, kind=kind: loss(x, labels.to(kind)), x)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "a part": lambda x: torch.cat([x, x], 3)[..., 1::2],
    "expanded": lambda x: x[:1].expand(SHAPE),
    "flipped sign": lambda x: torch._neg_view(-x),
    "a parameter": nn.Parameter,
}


@by_loss
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts(name: str, layout: str) -> None:
    loss = ready(LOSSES[name]())
    x, labels = problem(seed=1)
    other = LAYOUTS[layout](x.detach())
    assert other.shape == SHAPE
    same_as_alone(lambda x: loss(x, labels), other.requires_grad_())


class _Wrapped(Tensor):
    """As MONAI's MetaTensor and fastai's TensorImage are."""


def test_other_kinds_of_tensors() -> None:
    loss = ready(sf.DiceCELoss())
    x, labels = problem()
    same_as_alone(lambda x: loss(x.as_subclass(_Wrapped), labels.as_subclass(_Wrapped)), x)
    with pytest.raises(TypeError, match="input must be a tensor"):
        loss(None, labels)
    with pytest.raises(ValueError, match="target must be on the device of input"):
        loss(x, labels.to("meta"))
    weight = torch.rand(2, 1, *SHAPE[2:])
    for given in (weight, weight > 0.5, (9 * weight).int(), weight.double()):
        for _ in range(2):
            same_as_alone(lambda x, given=given: loss(x, labels, given), x)
    weight.requires_grad_()
    assert torch.autograd.grad(loss(x, labels, weight), weight)[0].abs().sum() > 0
    soft = x.detach().softmax(1)
    same_as_alone(lambda x: ready(loss, x, soft)(x, soft), x)
    soft.requires_grad_()
    assert torch.autograd.grad(loss(x, soft), soft)[0].abs().sum() > 0


def test_other_labels() -> None:
    x, labels = problem()
    loss = ready(sf.DiceCELoss(ignore_index=7), x, labels)
    with pytest.raises(ValueError, match=r"got 40 other values, the first of which is \d"):
        loss(x, labels + 3)
    ignored = labels.clone()
    ignored[0, :, 2] = 7
    same_as_alone(lambda x: loss(x, ignored), x)
    one, values = x[:, :1].detach().requires_grad_(), torch.rand(2, 1, *SHAPE[2:])
    loss = ready(sf.DiceCELoss(activation="sigmoid"), one, values)
    values[1, 0, 2, 3] = 1.5
    with pytest.raises(ValueError, match=r"must hold values in \[0, 1\] or ignore_index, got 1 "):
        loss(one, values)
    with pytest.raises(ValueError, match="target must hold 0, 1 or ignore_index, got 40 other"):
        loss(one, labels[:, :, :, :2].expand(2, 1, 5, 2).repeat(1, 1, 1, 2) * 0 + 2)
    same_as_alone(lambda x: loss(x, labels.clamp_max(1)[:, 0]), one)


def test_keywords_that_are_set() -> None:
    x, labels = problem()
    loss = ready(sf.DiceCELoss(class_weight=[1.0, 2.0, 0.5]))
    changes: tuple[tuple[str, Any], ...] = (
        ("lambda_ce", 0.0),
        ("lambda_dice", True),
        ("include_background", False),
        ("class_weight", [1.0, 3.0, 1.0]),
        ("class_weight", None),
        ("ignore_index", 1),
        ("batch", True),
        ("impl", "reference"),
    )
    for name, value in changes:
        if name == "lambda_dice":
            with pytest.raises(TypeError, match="lambda_dice must be a number"):
                setattr(loss, name, value)
            continue
        if name == "class_weight":
            loss.include_background = True
        setattr(loss, name, value)
        same_as_alone(lambda x: loss(x, labels), x)
    assert not has_plan(loss(x, labels))
    loss.impl, loss.sync = "auto", True
    with pytest.raises(RuntimeError, match="sync"):
        loss(x, labels)


def test_weights_that_change_in_place() -> None:
    x, labels = problem()
    loss = ready(sf.DiceCELoss(class_weight=[1.0, 2.0, 0.5]))
    before = loss(x, labels)
    loss.class_weight.mul_(torch.tensor([1, 5, 1]))
    assert loss(x, labels) != before
    same_as_alone(lambda x: loss(x, labels), x)
    for change in (loss.half, loss.double, lambda: loss.to("cpu")):
        change()
        same_as_alone(lambda x: loss(x, labels), x)
    loss._buffers["class_weight"] = torch.tensor([1.0, 2, 3]).requires_grad_()
    loss(x, labels).backward()
    assert loss._buffers["class_weight"].grad.abs().sum() > 0


def test_copies_begin_anew() -> None:
    x, labels = problem()
    loss = ready(sf.DiceCELoss())
    for other in (copy.deepcopy(loss), copy.copy(loss), pickle.loads(pickle.dumps(loss))):
        assert other is not loss
        same_as_alone(lambda x, other=other: other(x, labels), x)
        other.lambda_ce = 0.0
        same_as_alone(lambda x, other=other: other(x, labels), x)
    same_as_alone(lambda x: loss(x, labels), x)


def test_threads_that_share_a_loss() -> None:
    loss = sf.DiceCELoss()
    problems = [
        (torch.randn(2, 3, 4, side), torch.randint(0, 3, (2, 4, side))) for side in (3, 4, 5, 6)
    ]
    true = [sf.DiceCELoss()(*one) for one in problems]
    wrong: list[int] = []

    def work(place: int) -> None:
        for _ in range(50):
            if not torch.equal(loss(*problems[place]), true[place]):
                wrong.append(place)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_operators_of_a_step_that_nobody_counts() -> None:
    """Beside its node a step has two operators: the number, and the memory of the gradient."""
    x, labels = problem()
    loss, one = ready(sf.DiceCELoss()), torch.ones(())
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, acc_events=True) as run:
        torch.autograd.grad(loss(x, labels), x, one)
    names = [event.key for event in run.key_averages() if event.key.startswith(("aten", "segl"))]
    assert set(names) <= {
        *("aten::scalar_tensor", "aten::empty_like", "aten::empty", "aten::empty_strided"),
        *("aten::fill_", "aten::to", "aten::_local_scalar_dense", "aten::item"),
    }
