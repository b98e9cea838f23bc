"""MONAI's losses over sums: known values, attributes set later, unusual calls."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast.compat import monai as compat
from tests.compat.grid import Call, Drop, check
from tests.compat.monai_classes import THEIRS

pytestmark = pytest.mark.peers

REGION = ("DiceLoss", "MaskedDiceLoss", "GeneralizedDiceLoss", "TverskyLoss", "MCCLoss")
LABELS: dict[str, Any] = {"to_onehot_y": True, "softmax": True}


def logits(*shape: int) -> Tensor:
    """Return logits, always the same."""
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def labels(*shape: int, classes: int = 3) -> Tensor:
    """Return class indices, always the same."""
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(2))


X, T = logits(2, 3, 5, 4), labels(2, 1, 5, 4)
HOT = torch.nn.functional.one_hot(T[:, 0], 3).movedim(-1, 1).float()
MASK = labels(2, 1, 5, 4, classes=2).bool()


def compare(name: str, options: dict[str, Any], *given: Tensor) -> None:
    """Assert that a drop-in does what MONAI's loss does."""
    call = Call(options, given[0], given[1:])
    check(Drop(getattr(compat, name), getattr(THEIRS, name), lambda _: call, 1), call)


# Values of MONAI's own tests, which a pocket calculator gives too: sigmoid(1) is 0.731059.
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("DiceLoss", {}, 1 - 2 * 1.731059 / 5),
        ("DiceLoss", {"jaccard": True}, 1 - 1.731059 / (5 - 1.731059)),
        ("DiceLoss", {"squared_pred": True}, 1 - 2 * 1.731059 / (2 * 0.534447 + 2 * 0.072329 + 3)),
        ("GeneralizedDiceLoss", {}, 1 - 2 * 1.731059 / 5),
        ("TverskyLoss", {"alpha": 0.3, "beta": 0.7}, 1 - 1.731059 / (1.731059 + 0.0807 + 0.8883)),
        ("MCCLoss", {}, 1 - (1.731059 * 0.731059 - 0.268941 * 1.268941) / (2 * 3 * 1 * 2) ** 0.5),
    ],
)
def test_known_values(name: str, options: dict[str, Any], expected: float) -> None:
    x, target = torch.tensor([[[[1.0, -1], [-1, 1]]]]), torch.tensor([[[[1.0, 0], [1, 1]]]])
    loss = getattr(compat, name)(sigmoid=True, **options)
    assert float(loss(x, target)) == pytest.approx(expected, abs=2e-5)


def test_ignored_class_has_a_loss_of_one() -> None:
    loss = compat.DiceLoss(**LABELS, ignore_index=1, reduction="none")(X, T)
    assert loss.shape == (2, 3, 1, 1)
    assert (loss[:, 1] < 1e-3).all() | (loss[:, 1] > 1 - 1e-3).all()
    doubled = compat.DiceLoss(**LABELS, weight=[2.0] * 3)(X, T)
    assert float(doubled) == pytest.approx(2 * float(compat.DiceLoss(**LABELS)(X, T)))


def test_a_number_as_weight_becomes_one_per_class() -> None:
    ours, theirs = (P.DiceLoss(**LABELS, weight=2.0) for P in (compat, THEIRS))
    for loss in (ours, theirs):
        assert loss.class_weight.shape == ()
        loss(X, T)
    torch.testing.assert_close(ours.class_weight, theirs.class_weight)
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_weights_are_looked_at_in_each_call() -> None:
    loss = compat.DiceLoss(**LABELS, weight=[1.0, 2.0, 3.0])
    loss(X, T)
    assert loss.class_weight is not None
    loss.class_weight[1] = -2
    with pytest.raises(ValueError, match="negative"):
        loss(X, T)


SET = [
    *((name, "include_background", False) for name in REGION),
    *((name, "reduction", "none") for name in REGION),
    *((name, "batch", True) for name in REGION),
    *((name, "smooth_nr", 1.0) for name in REGION),
    *((name, "smooth_dr", 2.0) for name in REGION),
    *((name, "sigmoid", True) for name in REGION),
    *((name, "softmax", True) for name in REGION),
    *((name, "other_act", torch.sigmoid) for name in REGION),
    *((name, "soft_label", True) for name in REGION if name != "MCCLoss"),
    *((name, "ignore_index", 1) for name in ("DiceLoss", "MaskedDiceLoss", "TverskyLoss")),
    *((name, "squared_pred", True) for name in ("DiceLoss", "MaskedDiceLoss")),
    *((name, "jaccard", True) for name in ("DiceLoss", "MaskedDiceLoss")),
    *(("MaskedDiceLoss", name, True) for name in ("pre_sigmoid", "pre_softmax")),
    ("MaskedDiceLoss", "pre_other_act", torch.sigmoid),
    ("GeneralizedDiceLoss", "w_type", "simple"),
    ("GeneralizedDiceLoss", "w_type", "uniform"),
    ("TverskyLoss", "alpha", 0.2),
    ("TverskyLoss", "beta", 0.9),
]


@pytest.mark.parametrize(("name", "attribute", "value"), SET)
@pytest.mark.parametrize("target", [T, HOT], ids=["labels", "one-hot"])
def test_attributes_set_later(name: str, attribute: str, value: object, target: Tensor) -> None:
    def construct(package: Any) -> Any:  # noqa: ANN401
        loss = getattr(package, name)(to_onehot_y=target is T)
        setattr(loss, attribute, value)
        return loss

    given = (X.sigmoid(), target, MASK) if name == "MaskedDiceLoss" else (X.sigmoid(), target)
    call = Call({}, given[0], given[1:], attribute)
    check(Drop(lambda: construct(compat), lambda: construct(THEIRS), lambda _: call, 1), call)


def test_all_activations_one_after_the_other() -> None:
    ours, theirs = compat.DiceLoss(sigmoid=True), THEIRS.DiceLoss(sigmoid=True)
    for loss in (ours, theirs):
        loss.softmax, loss.other_act = True, torch.tanh
    torch.testing.assert_close(ours(X, HOT), theirs(X, HOT))


def test_one_class_in_two_layouts() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(1, 1, 3, 3, 3, 4, generator=generator)
    target = 3 * torch.rand(1, 1, 3, 3, 4, 3, generator=generator).transpose(-1, -2)
    compare("DiceLoss", {}, x, target)


@pytest.mark.parametrize("options", [{}, {"batch": True}, {"soft_label": True}], ids=str)
@pytest.mark.parametrize("name", ["DiceLoss", "TverskyLoss"])
def test_inputs_without_voxels(name: str, options: dict[str, Any]) -> None:
    x, target = logits(4, 3), labels(4, 1)
    compare(name, {"softmax": True, "to_onehot_y": True, **options}, x, target)
    compare(name, {"sigmoid": True, "reduction": "none", **options}, x, (-x).sigmoid())


@pytest.mark.parametrize("name", [name for name in REGION if name != "MaskedDiceLoss"])
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0, 4), (1, 1, 0)], ids=str)
def test_nothing_to_sum(name: str, shape: tuple[int, ...]) -> None:
    target = torch.zeros(shape)
    compare(name, {"sigmoid": True, "reduction": "none"}, logits(*shape), target)


def test_integers_as_prediction() -> None:
    hot = HOT.long()
    ours, theirs = (P.DiceLoss(jaccard=True)(hot.flip(0), hot) for P in (compat, THEIRS))
    torch.testing.assert_close(ours, theirs)
    assert compat.DiceLoss(softmax=True)(hot.flip(0), hot).isfinite()


@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (2, 1, 3, 5), (2, 1, 2, 3, 5, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
@pytest.mark.parametrize("name", ["DiceLoss", "TverskyLoss", "GeneralizedDiceLoss", "MCCLoss"])
def test_any_values_of_one_class(
    name: str, dtype: torch.dtype, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = labels(*shape).to(dtype)  # up to 2, with which MONAI computes as with any number
    if dtype == torch.uint8 and name == "TverskyLoss":
        target = target.clamp(max=1)  # there 1 - target is in bytes
    if dtype == torch.float32:
        target = 0.7 * target.transpose(2, 3).contiguous().transpose(2, 3)
    compare(name, {"sigmoid": True}, logits(*shape), target)
    # As on a GPU, where nobody looks at the values.
    monkeypatch.setattr("segloss_fast.compat._volumes.can_look", lambda _: False)
    compare(name, {"sigmoid": True}, logits(*shape), target)
    if name == "DiceLoss":
        compare(name, {"sigmoid": True, "ignore_index": 2}, logits(*shape), target)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("mask", [MASK, MASK.float(), 0.7 * MASK], ids=["bool", "0, 1", "soft"])
def test_without_looking_at_values(
    soft: bool, mask: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segloss_fast.compat._volumes.can_look", lambda _: False)
    compare("MaskedDiceLoss", {"soft_label": soft}, X.double().tanh(), HOT.double(), mask)
    compare("MaskedDiceLoss", {"soft_label": soft, "softmax": True}, X, HOT, mask)
    compare("DiceLoss", {"soft_label": soft, "softmax": True, "ignore_index": 1}, X, HOT)


@pytest.mark.parametrize("looking", [True, False])
@pytest.mark.parametrize("options", [{}, {"squared_pred": True}, {"soft_label": True}], ids=str)
@pytest.mark.parametrize("mask", [MASK, MASK.float(), MASK.byte()], ids=["bool", "float", "uint8"])
def test_labels_that_are_masked_out_may_be_anything(
    mask: Tensor, options: dict[str, Any], looking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not looking:
        monkeypatch.setattr("segloss_fast.compat._volumes.can_look", lambda _: False)
        monkeypatch.setattr("segloss_fast.compat.monai.masked_dice.can_look", lambda _: False)
    target = torch.where(MASK, T, 255)
    compare("MaskedDiceLoss", {**LABELS, **options}, X, target, mask)
    compare("MaskedDiceLoss", {**LABELS, **options}, X, T, mask[:1])


def test_minus_one_is_255_among_bytes() -> None:
    target = T.to(torch.uint8)
    target[0, 0, :2] = 255
    compare("DiceLoss", {**LABELS, "ignore_index": -1}, X, target)


def test_gradient_of_absent_classes_to_the_target() -> None:
    target = HOT.clone()
    target[:, 2] = 0
    target.requires_grad_()
    compat.GeneralizedDiceLoss(softmax=True)(X, target).backward()
    assert target.grad is not None
    assert target.grad.isfinite().all()


def test_half_precision_does_not_overflow() -> None:
    x = logits(1, 2, 64, 64, 32)
    target = labels(1, 1, 64, 64, 32, classes=2)
    for name in REGION:
        loss = getattr(compat, name)(**LABELS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = loss(x.half(), target), loss(x.half().double(), target)
        assert found[0].dtype == torch.float32
        torch.testing.assert_close(found[0].double(), found[1], rtol=1e-5, atol=1e-6)


def test_mask_is_part_of_a_pickle() -> None:
    loss = pickle.loads(pickle.dumps(compat.MaskedDiceLoss(softmax=True)))
    torch.testing.assert_close(loss.spatial_weighted(X.softmax(1), HOT, MASK), loss(X, HOT, MASK))


@pytest.mark.torch_compile
@pytest.mark.parametrize("name", REGION)
def test_compiles_without_graph_breaks(name: str) -> None:
    weight = {"weight": [1.0, 2.0, 3.0]} if "Dice" in name and name[0] in "DM" else {}
    loss = getattr(compat, name)(**LABELS, **weight)
    others = (T, MASK) if name == "MaskedDiceLoss" else (T,)
    leaves = [X.clone().requires_grad_() for _ in range(2)]
    compiled: Any = torch.compile(loss, fullgraph=True, backend="aot_eager")
    values = compiled(leaves[0], *others), loss(leaves[1], *others)
    torch.testing.assert_close(*values)
    for value in values:
        value.backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)
