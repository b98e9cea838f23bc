"""Options of losses as users meet them: attributes, signatures, unknown keywords, NumPy."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import segloss_fast
from segloss_fast import functional
from segloss_fast.losses import __all__ as LOSS_NAMES
from segloss_fast.losses._declare import PEERS
from tests.conformance import LOSSES, LossRecord, problem

by_loss = pytest.mark.parametrize("record", LOSSES, ids=lambda record: record.name)
# A value for each kind of option, which differs from the default.
OTHERS: dict[str, Any] = {
    "activation": "sigmoid",
    "include_background": False,
    "batch": True,
    "class_weight": [0.5, 1.0, 2.0],
    "reduction": "sum",
}


class Image(torch.Tensor):
    """A class of tensors that only wraps torch's functions, as fastai's and MONAI's do."""


class Mask(torch.Tensor):
    """Another."""


def value_of(loss: Any, **call: Any) -> Tensor:  # noqa: ANN401
    case = problem("labels", dtype=torch.float32)
    result: Tensor = loss(case.input, case.target, **call)
    return result


@by_loss
@pytest.mark.parametrize("option", OTHERS)
def test_an_option_that_is_set_takes_effect_as_in_the_constructor(
    record: LossRecord, option: str
) -> None:
    changed = record.module(**{option: OTHERS[option]})
    loss: Any = record.module()
    default = inspect.signature(record.module).parameters[option].default
    assert getattr(loss, option) == default
    value_of(loss)
    setattr(loss, option, OTHERS[option])
    found = getattr(loss, option)
    assert (found.tolist() if isinstance(found, Tensor) else found) == OTHERS[option]
    for module in (loss, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), loss.to("cpu")):
        assert torch.equal(value_of(module), value_of(changed))
    setattr(loss, option, default)
    assert torch.equal(value_of(loss), value_of(record.module()))


@by_loss
def test_setting_is_checked_as_in_the_constructor(record: LossRecord) -> None:
    loss: Any = record.module()
    before = value_of(loss)
    for keywords, error, text in record.bad_keywords:
        if (
            len(keywords) == 1
            and next(iter(keywords)) in inspect.signature(record.module).parameters
        ):
            ((name, value),) = keywords.items()
            with pytest.raises(error, match=text):
                setattr(loss, name, value)
    assert torch.equal(value_of(loss), before)


def test_weights_that_are_set_or_written_into_survive_a_move() -> None:
    loss = segloss_fast.DiceLoss(class_weight=[1.0, 1.0, 1.0])
    weights = torch.tensor([0.0, 1.0, 5.0])
    expected = value_of(segloss_fast.DiceLoss(class_weight=weights))
    loss.class_weight = weights
    assert torch.equal(value_of(loss.half().to("cpu")), expected)
    loss.class_weight[2] = 1.0
    assert value_of(loss.float()) == value_of(segloss_fast.DiceLoss(class_weight=[0.0, 1.0, 1.0]))
    weights[1] = 9.0  # the module's are its own
    assert loss.class_weight.tolist() == [0.0, 1.0, 1.0]
    assert loss.class_weight.dtype == torch.float64
    loss.class_weight = None
    assert value_of(loss) == value_of(segloss_fast.DiceLoss())
    assert not loss.state_dict()


def test_an_attribute_of_a_subclass_is_its_own() -> None:
    class Mine(segloss_fast.DiceLoss):
        def __init__(self, scale: float) -> None:
            super().__init__(squared=True)
            self.scale = scale

        def forward(self, input: Tensor, target: Tensor, voxel_weight: Any = None) -> Tensor:  # noqa: ANN401
            return self.scale * super().forward(input, target, voxel_weight)

    loss = Mine(3.0)
    assert value_of(loss) == 3 * value_of(segloss_fast.DiceLoss(squared=True))
    loss.squared = False
    assert value_of(loss) == 3 * value_of(segloss_fast.DiceLoss())
    with pytest.raises(TypeError, match="squared must be True or False"):
        loss.squared = "yes"


@by_loss
def test_signatures_show_every_keyword_with_its_default(record: LossRecord) -> None:
    for shown in (record.module, record.function):
        parameters = inspect.signature(shown).parameters
        kinds = {parameter.kind for parameter in parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds
        assert parameters["reduction"].default == "mean"
        assert parameters["class_weight"].default is None
        assert "_source" not in parameters
    # What is shown is what is taken.
    loss: Any = record.module()
    defaults = {
        name: p.default
        for name, p in inspect.signature(record.module).parameters.items()
        if p.default is not p.empty
    }
    assert torch.equal(value_of(record.module(**defaults)), value_of(loss))


@pytest.mark.parametrize("name", sorted(set(LOSS_NAMES) - {"DeepSupervisionLoss", "WeightedSum"}))
def test_unknown_keywords_name_the_loss_and_help(name: str) -> None:
    module = getattr(segloss_fast, name)
    for keyword, text in PEERS.items():
        if keyword in inspect.signature(module).parameters:
            continue
        with pytest.raises(TypeError, match=f"^{name} has no keyword '{keyword}': ") as error:
            module(**{keyword: 1})
        assert str(error.value).endswith(text)
    with pytest.raises(TypeError, match=f"{name} has no keyword 'reductoin': did you mean 'reduc"):
        module(reductoin="mean")
    with pytest.raises(TypeError, match=f"{name} has no keyword 'xyz': it has .*class_weight"):
        module(xyz=1)


def test_functions_name_themselves() -> None:
    case = problem("labels")
    for name in functional.__all__:
        if name == "deep_supervision_loss":
            continue
        with pytest.raises(TypeError, match=f"^{name} has no keyword 'squared_pred': use squared"):
            getattr(functional, name)(case.input, case.target, squared_pred=True)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_numpy_is_taken_for_pythons_numbers(kind: Any) -> None:  # noqa: ANN401
    case = problem("labels", dtype=torch.float32)
    weights = [1.0, 2.0, 3.0]
    index: Any = np.int64(255)
    text: Any = "abc"
    given: Any
    for given in (np.array(weights, kind), [kind(w) for w in weights], torch.tensor(weights)):
        for loss in (segloss_fast.DiceCELoss, segloss_fast.LovaszSoftmaxLoss):
            expected = value_of(loss(class_weight=weights))
            assert torch.equal(value_of(loss(class_weight=given)), expected)
        function = functional.dice_loss(case.input, case.target, class_weight=given)
        assert torch.equal(function, value_of(segloss_fast.DiceLoss(class_weight=weights)))
    assert value_of(segloss_fast.FocalLoss(gamma=kind(2))) == value_of(segloss_fast.FocalLoss())
    assert value_of(segloss_fast.DiceLoss(ignore_index=index)) == value_of(segloss_fast.DiceLoss())
    spacing = [3.0, 1.0, 2.0]
    expected = value_of(segloss_fast.HausdorffDTLoss(spacing=spacing))
    for given in (np.array(spacing, kind), torch.tensor(spacing)):
        assert value_of(segloss_fast.HausdorffDTLoss(spacing=given)) == expected
    with pytest.raises(TypeError, match="class_weight must hold a number per class, got str"):
        segloss_fast.DiceLoss(class_weight=text)


def test_level_weights_of_any_kind() -> None:
    case = problem("labels", (4, 4, 4), dtype=torch.float32)
    levels = [case.input, case.input[..., ::2, ::2, ::2]]
    weights = [0.75, 0.25]
    inner = segloss_fast.DiceLoss()
    expected = segloss_fast.DeepSupervisionLoss(inner, weights)(levels, case.target)
    given: Any
    for given in (np.array(weights), torch.tensor(weights), tuple(weights)):
        loss = segloss_fast.DeepSupervisionLoss(inner, given)
        assert torch.equal(loss(levels, case.target), expected)
        loss.weights = [0.5, 0.5]
        assert not torch.equal(loss(levels, case.target), expected)
        with pytest.raises(ValueError, match="weights must not all be 0"):
            loss.weights = [0, 0]
        with pytest.raises(TypeError, match="loss must be a loss of segloss_fast, got Linear"):
            loss.loss = nn.Linear(1, 1)  # type: ignore[assignment]


@by_loss
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64], ids=str)
def test_voxel_weights_may_be_integers(record: LossRecord, dtype: torch.dtype) -> None:
    weight = torch.rand(2, 1, 5, 4, 7) < 0.6
    function = record.module()
    expected = value_of(function, voxel_weight=weight.float())
    assert torch.equal(value_of(function, voxel_weight=weight.to(dtype)), expected)


@by_loss
def test_subclasses_of_tensors_that_differ(record: LossRecord) -> None:
    case = problem("labels", dtype=torch.float32)
    x = case.input.clone().requires_grad_()
    value = record.function(x.as_subclass(Image), case.target.as_subclass(Mask))
    assert type(value) is Tensor
    assert torch.equal(value, record.function(case.input, case.target))
    value.backward()
    assert x.grad is not None
    assert x.grad.count_nonzero() > 0


def test_weights_of_other_losses_in_a_checkpoint_are_left_out_with_a_warning() -> None:
    model = nn.ModuleDict({"net": nn.Linear(2, 2), "loss": segloss_fast.DiceCELoss()})
    old = {**model.state_dict(), "loss.class_weight": torch.ones(2)}
    old["loss.dice.class_weight"] = old["loss.cross_entropy.weight"] = torch.ones(2)
    text = "loss.class_weight, loss.dice.class_weight, loss.cross_entropy.weight are not loaded"
    with pytest.warns(UserWarning, match=text) as said:
        model.load_state_dict(old)
    assert len(said) == 1
    model.load_state_dict(model.state_dict())  # and no warning
    with pytest.raises(RuntimeError, match=r"Unexpected key.*loss\.other"):
        model.load_state_dict({**model.state_dict(), "loss.other": torch.ones(1)})


@pytest.mark.parametrize("label", [255, 1000003, 2147483648])
def test_labels_out_of_range_are_shown_with_all_digits(label: int) -> None:
    target = torch.full((1, 4, 4), label)
    for loss in (segloss_fast.DiceCELoss, segloss_fast.LovaszSoftmaxLoss, segloss_fast.TopKLoss):
        for impl in ("auto", "reference"):
            with pytest.raises(ValueError, match=rf"16 other values, the first of .* is {label}$"):
                loss(impl=impl)(torch.randn(1, 3, 4, 4), target)
