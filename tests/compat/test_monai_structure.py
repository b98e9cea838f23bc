"""MONAI's losses over skeletons, distances between classes, and neighbours."""

from __future__ import annotations

import random
from typing import Any

import monai.losses
import pytest
import torch
from monai.losses import cldice as theirs_cldice
from torch import Tensor

from segloss_fast.compat import monai as compat
from segloss_fast.compat.monai import cldice
from tests.compat.grid import Call, Draw, Drop, by_block, check_block
from tests.compat.monai_calls import HEAD, volumes

pytestmark = pytest.mark.peers

SKELETON = {
    "iter_": (0, 1, 2, 4),
    "smooth_nr": (0.0, 1e-5, 1.0),
    "smooth_dr": (1e-5, 1.0),
    "smooth": (1e-4, 0.5),
    **{name: HEAD[name] for name in ("include_background", "reduction")},
}


def skeletons(draw: Draw, options: dict[str, object]) -> Call:
    """Return a call with these options, and a random activation."""
    x, target = volumes(draw, options, any_values=True, with_gradient=True, ranks=(2, 3))
    if target.dtype == torch.bool:  # which MONAI cannot negate
        target = target.to(draw.of(torch.int16, torch.float32))
    return Call(options, x, (target,))


def cl_dice(generator: random.Random) -> Call:
    """Return a random call of SoftclDiceLoss."""
    draw = Draw(generator)
    return skeletons(draw, draw.options(SKELETON))


def dice_cl_dice(generator: random.Random) -> Call:
    """Return a random call of SoftDiceclDiceLoss."""
    draw = Draw(generator)
    return skeletons(draw, draw.options({**SKELETON, "alpha": (0.0, 0.3, 1)}))


def wasserstein(generator: random.Random) -> Call:
    """Return a random call of GeneralizedWassersteinDiceLoss."""
    draw = Draw(generator)
    options = draw.options(
        {
            **{"weighting_mode": ("default", "GDL"), "reduction": HEAD["reduction"]},
            **{"smooth_nr": (0.0, 1e-5, 1.0), "smooth_dr": (1e-5, 1.0)},
        }
    )
    batch, classes, size = draw.of(1, 2, 3), draw.of(2, 3, 5), draw.size(draw.of(0, 1, 2, 3, 4))
    matrix = draw.of(1.0, 3.0) * draw.soft(classes, classes)
    kind = draw.of("tensor", "array", "double", "integers")
    if kind == "integers":
        matrix = (matrix * 2).long() + 1 - torch.eye(classes, dtype=torch.int64)
    matrix = matrix.double() if kind == "double" else matrix
    options["dist_matrix"] = matrix if kind == "tensor" else matrix.numpy()
    x = draw.strided(draw.normal(batch, classes, *size))
    labels = draw.labels(classes, batch, *draw.of([1], []), *size)
    x = x.to(draw.of(torch.float32, torch.float64, torch.float16))
    return Call(options, x, (labels.to(draw.of(torch.uint8, torch.int64, torch.float32)),))


def nacl(generator: random.Random) -> Call:
    """Return a random call of NACLLoss."""
    draw = Draw(generator)
    options = draw.options(
        {
            **{"kernel_size": (1, 3, 5), "kernel_ops": ("mean", "gaussian")},
            **{"distance_type": ("l1", "l2"), "alpha": (0.0, 0.5, 2)},
            "sigma": (0.1, 0.8, 2.0),
        }
    )
    batch, classes, rank = draw.of(1, 2, 3), draw.of(1, 2, 3, 5), draw.of(2, 3)
    size = draw.size(rank)
    options |= {"classes": classes, "dim": rank}
    x = draw.strided(draw.normal(batch, classes, *size))
    x = x.to(draw.of(torch.float32, torch.float64, torch.float16))
    return Call(options, x, (draw.labels(classes, batch, *size),))


DROPS = {
    name: Drop(getattr(compat, name), getattr(monai.losses, name), call, 50)
    for name, call in (
        ("SoftclDiceLoss", cl_dice),
        ("SoftDiceclDiceLoss", dice_cl_dice),
        ("GeneralizedWassersteinDiceLoss", wasserstein),
        ("NACLLoss", nacl),
    )
}


@by_block
@pytest.mark.parametrize("name", DROPS)
def test_equals_monai(name: str, block: int) -> None:
    check_block(DROPS[name], block)


def both(name: str, *args: Any, **options: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """Return the drop-in and MONAI's loss, constructed alike."""
    return getattr(compat, name)(*args, **options), getattr(monai.losses, name)(*args, **options)


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    """Return a prediction, and class indices ``[B, 1, *S]``."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, shape[1], (shape[0], 1, *shape[2:]), generator=generator)
    return torch.rand(shape, generator=generator), labels


MATRIX = 1 - torch.eye(3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SoftclDiceLoss", {"iter_": 1.5}),
        ("SoftclDiceLoss", {"iter_": -1}),
        ("SoftclDiceLoss", {"smooth": 0}),
        ("SoftclDiceLoss", {"reduction": "median"}),
        ("SoftclDiceLoss", {"sigmoid": True, "softmax": True}),
        ("SoftclDiceLoss", {"other_act": 1}),
        ("SoftDiceclDiceLoss", {"alpha": 1.5}),
        ("SoftDiceclDiceLoss", {"iter_": "3"}),
        ("SoftDiceclDiceLoss", {"reduction": "median"}),
        ("SoftDiceclDiceLoss", {"softmax": True, "other_act": torch.tanh}),
        ("GeneralizedWassersteinDiceLoss", {}),
        ("GeneralizedWassersteinDiceLoss", {"dist_matrix": torch.rand(2, 3)}),
        ("GeneralizedWassersteinDiceLoss", {"dist_matrix": torch.rand(2)}),
        ("GeneralizedWassersteinDiceLoss", {"dist_matrix": MATRIX, "weighting_mode": "gdl"}),
        ("GeneralizedWassersteinDiceLoss", {"dist_matrix": MATRIX, "reduction": "median"}),
        ("NACLLoss", {"classes": 3}),
        ("NACLLoss", {"classes": 3, "dim": 1}),
        ("NACLLoss", {"classes": 3, "dim": 2, "kernel_ops": "median"}),
        ("NACLLoss", {"classes": 3, "dim": 2, "distance_type": "L1"}),
        ("NACLLoss", {"classes": 3, "dim": 2, "kernel_size": "3"}),
        ("NACLLoss", {"classes": 3, "dim": 2, "kernel_ops": "gaussian", "sigma": [1.0] * 3}),
    ],
)
def test_wrong_options(name: str, options: dict[str, object]) -> None:
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        getattr(monai.losses, name)(**options)
    with pytest.raises(theirs.type):
        getattr(compat, name)(**options)


@pytest.mark.parametrize(
    ("name", "options", "input", "target"),
    [
        ("SoftclDiceLoss", {}, [2, 3, 5, 4], [2, 3, 5, 3]),
        ("SoftclDiceLoss", {"to_onehot_y": True}, [2, 3, 5, 4], [2, 3, 5, 4]),
        ("SoftDiceclDiceLoss", {}, [2, 3, 5, 4], [2, 5, 4]),
        ("SoftDiceclDiceLoss", {}, [2, 3, 5, 4], [2, 2, 5, 4]),
        ("SoftDiceclDiceLoss", {}, [2, 3, 5, 4], [2, 1, 5, 4]),
        ("SoftDiceclDiceLoss", {"to_onehot_y": True}, [2, 3, 5, 4], [2, 3, 5, 4]),
        ("GeneralizedWassersteinDiceLoss", {"dist_matrix": MATRIX}, [2, 2, 5, 4], [2, 5, 4]),
        ("GeneralizedWassersteinDiceLoss", {"dist_matrix": MATRIX}, [2, 4, 5, 4], [2, 5, 4]),
        ("GeneralizedWassersteinDiceLoss", {"dist_matrix": MATRIX}, [2, 3, 5, 4], [2, 5, 5]),
        ("GeneralizedWassersteinDiceLoss", {"dist_matrix": MATRIX}, [2, 3, 5, 4], [2, 3, 5, 4]),
        ("NACLLoss", {"classes": 3, "dim": 2}, [2, 3, 5, 4], [2, 1, 5, 4]),
        ("NACLLoss", {"classes": 3, "dim": 2}, [2, 3, 5, 4], [3, 5, 4]),
        ("NACLLoss", {"classes": 3, "dim": 2}, [2, 3, 5, 4], [2, 5, 5]),
        ("NACLLoss", {"classes": 3, "dim": 3}, [2, 3, 5, 4], [2, 5, 4]),
        ("NACLLoss", {"classes": 4, "dim": 2}, [2, 3, 5, 4], [2, 5, 4]),
        ("NACLLoss", {"classes": 2, "dim": 2}, [2, 3, 5, 4], [2, 5, 4]),
    ],
)
def test_wrong_shapes(
    name: str, options: dict[str, object], input: list[int], target: list[int]
) -> None:
    ours, theirs = both(name, **options)
    with pytest.raises(Exception) as expected:  # noqa: PT011
        theirs(torch.rand(input), torch.zeros(target, dtype=torch.int64))
    with pytest.raises(expected.type, match=r"\["):
        ours(torch.rand(input), torch.zeros(target, dtype=torch.int64))


def test_keywords_of_before_1_6_are_type_errors() -> None:
    x, _ = pair(1, 2, 4, 4)
    for name in ("SoftclDiceLoss", "SoftDiceclDiceLoss"):
        for loss in both(name):
            with pytest.raises(TypeError):
                loss(y_pred=x, y_true=x)


def test_a_perfect_skeleton_costs_the_smoothing() -> None:
    x = torch.zeros(1, 1, 9, 9)
    x[..., 4, 1:8] = 1
    for loss in both("SoftclDiceLoss"):
        assert float(loss(x, x)) == pytest.approx(4.99e-5, rel=2e-3)


@pytest.mark.parametrize("name", ["SoftclDiceLoss", "SoftDiceclDiceLoss"])
def test_no_skeleton_is_nan_without_smoothing(name: str) -> None:
    zero = torch.zeros(1, 1, 4, 4)
    for loss in both(name, smooth_nr=0, smooth_dr=0):
        assert loss(zero, zero).isnan()


@pytest.mark.parametrize("name", ["SoftclDiceLoss", "SoftDiceclDiceLoss"])
def test_what_monai_fails_on(name: str) -> None:
    x, _ = pair(2, 2, 5, 4)
    t = x.round()
    loss = getattr(compat, name)()
    torch.testing.assert_close(loss(x, t.bool()), loss(x, t))
    # Rows of one voxel have no neighbours across.
    flat = loss(x[:, :, :, 0], t[:, :, :, 0])
    assert flat.isfinite()
    with pytest.raises(ValueError, match="one to three spatial dimensions"):
        loss(torch.zeros(1, 1, 2, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.uint8])
@pytest.mark.parametrize("size", [(6, 7), (5, 4, 6)])
def test_functions_of_skeletons(size: tuple[int, ...], dtype: torch.dtype) -> None:
    x = (pair(2, 3, *size)[0] * (1 if dtype.is_floating_point else 4)).to(dtype)
    for name, more in (("soft_erode", ()), ("soft_dilate", ()), ("soft_open", ())):
        ours, theirs = getattr(cldice, name), getattr(theirs_cldice, name)
        torch.testing.assert_close(ours(x, *more), theirs(x, *more))
    torch.testing.assert_close(cldice.soft_skel(x, 2), theirs_cldice.soft_skel(x, 2))


def changed(losses: tuple[Any, Any], path: str, value: object) -> None:
    """Set an attribute of both, or of their submodule."""
    *parents, name = path.split(".")
    for loss in losses:
        setattr(loss.get_submodule(".".join(parents)), name, value)


def test_attributes_of_cl_dice_take_effect() -> None:
    x, t = pair(2, 3, 6, 5)
    losses = both("SoftDiceclDiceLoss", softmax=True, to_onehot_y=True)
    for path, value in (
        *(("alpha", 0.8), ("cldice.iter", 1), ("cldice.smooth", 0.5), ("dice.batch", True)),
        *(("dice.include_background", False), ("cldice.include_background", False)),
        *(("cldice.smooth_nr", 0.5), ("dice.squared_pred", True), ("dice.reduction", "none")),
    ):
        before = losses[0](x, t)
        changed(losses, path, value)
        torch.testing.assert_close(losses[0](x, t), losses[1](x, t))
        assert losses[0](x, t).shape != before.shape or (losses[0](x, t) != before).any(), path


def test_attributes_of_wasserstein_take_effect() -> None:
    x, t = pair(2, 3, 6, 5)
    losses = both("GeneralizedWassersteinDiceLoss", MATRIX)
    for path, value in (
        ("m", torch.rand(3, 3, generator=torch.Generator().manual_seed(1))),
        *(("alpha_mode", "GDL"), ("smooth_nr", 2.0), ("smooth_dr", 3.0), ("reduction", "sum")),
    ):
        before = losses[0](x, t)
        changed(losses, path, value)
        torch.testing.assert_close(losses[0](x, t), losses[1](x, t))
        assert losses[0](x, t) != before, path
    p, labels = x.flatten(2).softmax(1), t.flatten(1)
    found, expected = (loss.wasserstein_distance_map(p, labels) for loss in losses)
    torch.testing.assert_close(found, expected)


def test_wasserstein_of_no_voxels_but_classes() -> None:
    scores, labels = 1000 * torch.eye(3), torch.arange(3)
    for loss in both("GeneralizedWassersteinDiceLoss", MATRIX):
        assert loss(scores, labels) == 0


@pytest.mark.torch_compile
@pytest.mark.parametrize("name", DROPS)
def test_compiles_whole(name: str) -> None:
    x, t = pair(2, 3, 6, 5)
    args = {"GeneralizedWassersteinDiceLoss": (MATRIX,), "NACLLoss": (3, 2)}.get(name, ())
    options = {} if args else {"to_onehot_y": True, "softmax": True}
    t = t[:, 0] if args else t
    loss = getattr(compat, name)(*args, **options)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    values = [each(leaf, t) for each, leaf in zip((compiled, loss), leaves, strict=True)]
    grads = [torch.autograd.grad(*each) for each in zip(values, leaves, strict=True)]
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(grads[0], grads[1])
