"""MONAI's losses over sums called wrongly: the exceptions are MONAI's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast.compat import monai as compat
from tests.compat.grid import Call, outcome
from tests.compat.monai_classes import THEIRS

pytestmark = pytest.mark.peers

REGION = ("DiceLoss", "MaskedDiceLoss", "GeneralizedDiceLoss", "TverskyLoss", "MCCLoss")
P3 = torch.rand(1, 3, 4)
WRONG_OPTIONS: tuple[dict[str, Any], ...] = (
    {"sigmoid": True, "softmax": True},
    {"softmax": True, "other_act": torch.tanh},
    *({"other_act": 3}, {"reduction": "average"}, {"reduction": None}),
    *({"smooth_nr": "a"}, {"smooth_dr": None}, {"unknown": 1}),
)
WRONG = [
    *((name, options, ()) for name in REGION for options in WRONG_OPTIONS),
    ("GeneralizedDiceLoss", {"w_type": "cube"}, ()),
    ("GeneralizedDiceLoss", {"w_type": 3}, ()),
    ("DiceLoss", {"weight": "a"}, ()),
    ("DiceLoss", {"weight": [1.0, 2.0]}, (P3, P3)),
    ("DiceLoss", {"weight": [1.0, -2.0, 1.0]}, (P3, P3)),
    ("DiceLoss", {"weight": -1.0}, (P3, P3)),
    ("DiceLoss", {"include_background": False, "weight": [1.0, 2.0, 3.0]}, (P3, P3)),
    *((name, {}, (P3, t)) for name in REGION for t in (P3[:, :2], P3[:, :1], P3[0])),
    *(
        (name, {"to_onehot_y": True}, (P3, torch.zeros(shape)))
        for name in REGION
        for shape in ((1, 3, 4), (1, 1, 5), (1, 4), (2, 1, 4))
    ),
    *((name, {}, (P3[0, 0], P3[0, 0])) for name in REGION),
    ("MaskedDiceLoss", {}, (P3, P3, torch.ones(2, 1, 4))),
    ("MaskedDiceLoss", {}, (P3, P3, torch.ones(1, 3, 4))),
    ("MaskedDiceLoss", {}, (P3, P3, torch.ones(1, 1, 3))),
]


@pytest.mark.parametrize(("name", "options", "call"), WRONG)
def test_wrong_calls_raise_as_monai(
    name: str, options: dict[str, Any], call: tuple[Tensor, ...]
) -> None:
    ours, theirs = (
        outcome(getattr(package, name), Call(options, *_input_and_others(call)))
        for package in (compat, THEIRS)
    )
    assert theirs.error is not None
    assert isinstance(ours.error, type(theirs.error)), (ours.error, theirs.error)
    assert str(ours.error)


def _input_and_others(call: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    return (call[0], call[1:]) if call else (P3, (P3,))


def test_wrong_calls_that_torch_would_explain_badly() -> None:
    with pytest.raises(TypeError, match="must be tensors, got list"):
        compat.DiceLoss()([1.0], P3)
    with pytest.raises(RuntimeError, match="on one device, got meta and cpu"):
        compat.DiceLoss()(P3.to("meta"), P3)
    loss = compat.DiceLoss()
    loss.reduction = "average"
    with pytest.raises(ValueError, match="'average'"):
        loss(P3, P3)
