"""The drop-ins of segmentation-models-pytorch as classes, modules, and in programs."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from segloss_fast.compat import smp as compat
from segloss_fast.compat.smp import focal
from tests.helpers import relative_l2
from tests.peers import smp_losses

pytestmark = pytest.mark.peers

FILES = {
    "DiceLoss": "dice",
    "JaccardLoss": "jaccard",
    "TverskyLoss": "tversky",
    "FocalLoss": "focal",
    "LovaszLoss": "lovasz",
    "MCCLoss": "mcc",
    "SoftBCEWithLogitsLoss": "soft_bce",
    "SoftCrossEntropyLoss": "soft_ce",
}
MODES = [name for name in FILES if FILES[name] not in ("mcc", "soft_bce", "soft_ce")]
each = pytest.mark.parametrize("name", FILES)
with_mode = pytest.mark.parametrize("name", MODES)


def theirs(name: str) -> Any:  # noqa: ANN401
    """Return the peer's class."""
    return getattr(smp_losses(FILES[name]), name)


def both(name: str, **options: object) -> tuple[Any, Any]:
    """Return our module and the peer's."""
    return getattr(compat, name)(**options), theirs(name)(**options)


def problem(name: str, mode: str = "multiclass") -> tuple[Tensor, Tensor]:
    """Return a prediction and a target of a loss's own kind."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 1 if mode == "binary" else 3, 6, 5, generator=generator)
    labels = torch.randint(0, 3, (2, 6, 5), generator=generator)
    if name == "MCCLoss":
        return x[:, :1].sigmoid(), labels % 2
    if name == "SoftBCEWithLogitsLoss":
        return x, (torch.rand(x.shape, generator=generator) > 0.6).float()
    if mode == "multiclass":
        return x, labels
    return x, (torch.rand(x.shape, generator=generator) > 0.6).long()


def simplest(name: str) -> dict[str, Any]:
    """Return the options that a loss needs."""
    if name in MODES:
        return {"mode": "multiclass"}
    return {"smooth_factor": 0.1} if name == "SoftCrossEntropyLoss" else {}


def assert_same(name: str, ours: Callable[..., Tensor], peers: Callable[..., Tensor]) -> None:
    """Assert the same value and gradient."""
    found = []
    for loss in (ours, peers):
        x, target = problem(name)
        value = loss(x.requires_grad_(), target)
        found.append((value.detach(), *torch.autograd.grad(value, x)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    assert relative_l2(found[0][1], found[1][1]) < 1e-5


@each
@pytest.mark.parametrize("method", ["__init__", "forward"])
def test_signature(name: str, method: str) -> None:
    ours, peers = (
        [(p.name, p.kind, p.default) for p in inspect.signature(found).parameters.values()]
        for found in (getattr(getattr(compat, name), method), getattr(theirs(name), method))
    )
    assert ours == peers


@each
def test_attributes_and_base(name: str) -> None:
    ours, peers = both(name, **simplest(name))
    public = [{key for key in vars(loss) if key[0] != "_"} for loss in (ours, peers)]
    assert public[0] == public[1]
    for key in public[0] - {"focal_loss_fn"}:
        assert getattr(ours, key) == getattr(peers, key)
    assert isinstance(ours, _Loss) == isinstance(peers, _Loss)
    if name == "FocalLoss":
        assert ours.focal_loss_fn.keywords == peers.focal_loss_fn.keywords
    assert isinstance(compat.TverskyLoss("binary"), compat.DiceLoss)


def test_constants_and_names() -> None:
    peers = smp_losses("constants")
    for name in ("BINARY_MODE", "MULTICLASS_MODE", "MULTILABEL_MODE"):
        assert getattr(compat, name) == getattr(peers, name)
    functions = set(smp_losses("_functional").__all__)
    assert functions | set(FILES) <= set(compat.__all__)


@each
def test_state_dicts_load_both_ways_and_modules_are_copied(name: str) -> None:
    options = simplest(name)
    if name == "SoftBCEWithLogitsLoss":
        options = {"weight": torch.tensor([2.0]), "pos_weight": torch.full((3, 1, 1), 3.0)}
    ours, peers = both(name, **options)
    assert list(ours.state_dict()) == list(peers.state_dict())
    ours.load_state_dict({key: value + 1 for key, value in peers.state_dict().items()})
    peers.load_state_dict(ours.state_dict())
    assert_same(name, ours, peers)
    assert_same(name, copy.deepcopy(ours), peers)
    assert_same(name, pickle.loads(pickle.dumps(ours)), peers)


CHANGES: list[tuple[str, str, Any]] = [
    ("DiceLoss", "smooth", 1.0),
    ("DiceLoss", "eps", 100.0),
    ("DiceLoss", "log_loss", True),
    ("DiceLoss", "ignore_index", 1),
    ("DiceLoss", "classes", torch.tensor([0, 2])),
    ("DiceLoss", "classes", [0, 2]),
    ("DiceLoss", "class_weights", torch.tensor([1.0, 2.0, 3.0])),
    ("DiceLoss", "from_logits", False),
    ("JaccardLoss", "smooth", 1.0),
    ("TverskyLoss", "alpha", 0.9),
    ("TverskyLoss", "gamma", 2.0),
    ("FocalLoss", "ignore_index", 1),
    ("FocalLoss", "class_weights", torch.tensor([1.0, 2.0, 3.0])),
    ("FocalLoss", "reduction", "sum"),  # without effect
    ("LovaszLoss", "per_image", True),
    ("LovaszLoss", "ignore_index", 1),
    ("MCCLoss", "eps", 1.0),
    ("SoftBCEWithLogitsLoss", "ignore_index", 1),
    ("SoftBCEWithLogitsLoss", "smooth_factor", 0.2),
    ("SoftBCEWithLogitsLoss", "reduction", "sum"),
    ("SoftCrossEntropyLoss", "smooth_factor", 0.3),
    ("SoftCrossEntropyLoss", "ignore_index", 1),
]


@pytest.mark.parametrize(("name", "attribute", "value"), CHANGES)
def test_attributes_may_be_changed(name: str, attribute: str, value: object) -> None:
    ours, peers = both(name, **simplest(name))
    for loss in (ours, peers):
        setattr(loss, attribute, value)
    assert_same(name, ours, peers)


def mean_of_scores(output: Tensor, target: Tensor, **options: object) -> Tensor:
    """Return a score of one's own, of the maps."""
    return (output * target).mean((0, 2)) + 0.1


@pytest.mark.parametrize("name", ["DiceLoss", "TverskyLoss"])
@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("ignored", [None, 0])
def test_subclasses_may_have_a_score_of_their_own(
    name: str, mode: str, ignored: int | None
) -> None:
    losses = [
        type("Own", (cls,), {"compute_score": staticmethod(mean_of_scores)})
        for cls in (getattr(compat, name), theirs(name))
    ]
    x, target = problem(name, mode)
    ours, peers = (loss(mode, ignore_index=ignored)(x, target) for loss in losses)
    torch.testing.assert_close(ours, peers)


def test_subclasses_may_have_a_mean_of_their_own() -> None:
    def largest(self: object, loss: Tensor) -> Tensor:
        return loss.max()

    losses = [
        type("Own", (cls,), {"aggregate_loss": largest})
        for cls in (compat.DiceLoss, theirs("DiceLoss"))
    ]
    ours, peers = (loss("multiclass")(*problem("DiceLoss")) for loss in losses)
    torch.testing.assert_close(ours, peers)


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_focal_may_have_a_function_of_its_own(mode: str) -> None:
    ours, peers = both("FocalLoss", mode=mode)
    ours.focal_loss_fn = peers.focal_loss_fn = lambda x, t: (x * t).sum()
    x, target = problem("FocalLoss", mode)
    torch.testing.assert_close(ours(x, target), peers(x, target))
    ours, peers = both("FocalLoss", mode=mode)
    options = {"gamma": 1.5, "normalized": True, "eps": 100.0}
    ours.focal_loss_fn = partial(ours.focal_loss_fn, **options)
    peers.focal_loss_fn = partial(peers.focal_loss_fn, **options)
    torch.testing.assert_close(ours(x, target), peers(x, target))


@pytest.mark.parametrize("mode", ["binary", "multilabel"])
def test_focal_takes_sums_of_masks_of_floats(mode: str) -> None:
    ours, peers = both("FocalLoss", mode=mode, alpha=0.3)
    x, target = problem("FocalLoss", mode)
    with mock.patch.object(focal, "focal_maps", side_effect=AssertionError("maps")):
        torch.testing.assert_close(ours(x, target.float()), peers(x, target.float()))
        with pytest.raises(AssertionError, match="maps"):
            ours(x, target * 0.7)


def test_focal_ignores_in_the_multilabel_mode_per_class() -> None:
    x, target = problem("FocalLoss", "multilabel")
    target[:, 1, :3] = 255
    rows = [compat.FocalLoss("binary", ignore_index=255)(x[:, c], target[:, c]) for c in range(3)]
    for given in (target, target.float()):
        found = compat.FocalLoss("multilabel", ignore_index=255)(x, given)
        torch.testing.assert_close(found, torch.stack(rows).mean())


def test_targets_that_require_a_gradient_get_it() -> None:
    for name in ("DiceLoss", "FocalLoss", "SoftBCEWithLogitsLoss"):
        grads = []
        for loss in both(name, **({"mode": "multilabel"} if name in MODES else {})):
            x, target = problem(name, "multilabel")
            target = (0.1 + 0.8 * target.double()).requires_grad_()
            loss(x.double(), target).backward()
            grads.append(target.grad)
        assert grads[0] is not None
        assert grads[1] is not None
        assert relative_l2(grads[0], grads[1]) < 1e-5


@with_mode
def test_half_precision_does_not_overflow(name: str) -> None:
    x = torch.randn(1, 2, 512, 512, generator=torch.Generator().manual_seed(1))
    target = (x[:, 0] > 0).long()
    ours = getattr(compat, name)("multiclass")
    half = ours(x.half(), target)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), ours(x.half().float(), target), rtol=1e-3, atol=1e-3)


@each
def test_channels_last_and_slices(name: str) -> None:
    ours = getattr(compat, name)(**simplest(name))
    x, target = problem(name)
    expected = ours(x, target)
    torch.testing.assert_close(
        ours(x.contiguous(memory_format=torch.channels_last), target), expected
    )
    wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1])
    wide[..., ::2] = x
    torch.testing.assert_close(ours(wide[..., ::2], target), expected)


def test_published_values() -> None:
    labels = torch.zeros(1, 1, 4, 4)
    prediction = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    # Without a true voxel there is neither a loss nor a gradient.
    x = prediction.requires_grad_()
    loss = compat.DiceLoss("binary")(x, labels)
    loss.backward()
    assert loss.item() == 0
    assert x.grad is not None
    assert not x.grad.any()
    # Ignored voxels stay in the mean: half of them halve it.
    x, target = problem("SoftCrossEntropyLoss")
    target[:, :3] = -100
    smp, own = compat.SoftCrossEntropyLoss(smooth_factor=0.0), nn.CrossEntropyLoss()
    torch.testing.assert_close(smp(x, target), own(x, target) / 2)
    # A perfect loss to a power below 1 has no gradient.
    x = (20 * torch.eye(2)[None].repeat(1, 1, 1)).requires_grad_()
    compat.TverskyLoss("multiclass", gamma=0.75, from_logits=False)(
        x / 20, torch.tensor([[0, 1]])
    ).backward()
    assert x.grad is not None
    assert x.grad.isnan().any()


@pytest.mark.torch_compile
@each
def test_compiles_whole(name: str) -> None:
    loss = getattr(compat, name)(**simplest(name))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaves = [problem(name)[0].requires_grad_() for _ in range(2)]
    target = problem(name)[1]
    values = [f(leaf, target) for f, leaf in zip((compiled, loss), leaves, strict=True)]
    for value in values:
        value.backward()
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)
