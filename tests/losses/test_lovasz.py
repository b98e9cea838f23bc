"""The Lovász losses against their definition, and what all losses promise."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import oracles_lovasz
from tests.helpers import assert_close, gradient, relative_l2
from tests.ops.lovasz_samples import IMPLS, sample
from tests.records import LOVASZ_LOSSES as LOSSES

by_loss = pytest.mark.parametrize("name", LOSSES)
by_impl = pytest.mark.parametrize("impl", IMPLS)
KEYWORDS: tuple[dict[str, Any], ...] = (
    {},
    {"classes": "all", "ce_weight": 0.7},
    {"classes": "present", "per_image": True, "class_weight": [0.5, 2.0, 3.0]},
    {"classes": [2, 0], "reduction": "none"},
    {"classes": [0, 1], "per_image": True, "reduction": "none", "ce_weight": 2.0},
    {"reduction": "sum", "class_weight": [0.5, 2.0, 3.0], "ce_weight": 1.0},
    {"include_background": False, "per_image": True, "classes": "present"},
    {"include_background": False, "reduction": "none", "classes": "present"},
    {"include_background": False, "class_weight": [9.0, 1.0, 2.0], "ce_weight": 1.0},
    {"per_image": True, "reduction": "none", "class_weight": [0.5, 2.0, 3.0], "ce_weight": 1.0},
)


@by_loss
@by_impl
@pytest.mark.parametrize("kind", ["labels", "ignore", "dense", "rare"])
def test_equals_its_definition(name: str, impl: str, kind: str) -> None:
    x, target, ignore_index = sample((2, 3, 4, 5), kind, name)
    for keywords in KEYWORDS:
        call = functools.partial(LOSSES[name][1], ignore_index=ignore_index, impl=impl, **keywords)
        value, grad = gradient(lambda x, call=call: call(x, target), x)  # type: ignore[misc]
        oracle = functools.partial(
            oracles_lovasz.lovasz, name, target=target, ignore_index=ignore_index, **keywords
        )
        true_value, true_grad = gradient(oracle, x)
        assert value.shape == true_value.shape, keywords
        assert_close(value, true_value, 1e-12, keywords)
        assert relative_l2(grad, true_grad) < 1e-11, keywords


@by_loss
@by_impl
@pytest.mark.parametrize("classes", ["present", "all", [1]])
@pytest.mark.parametrize("method", ["sort", "histogram"])
def test_nothing_to_count_gives_zero(name: str, impl: str, classes: Any, method: str) -> None:  # noqa: ANN401
    x, target, _ = sample((2, 3, 4, 5), "labels", name)
    for per_image in (False, True):
        module = LOSSES[name][0](
            classes=classes,
            per_image=per_image,
            method=method,
            ignore_index=7,
            ce_weight=1.0,
            impl=impl,
        )
        value, grad = gradient(lambda x, m=module: m(x, torch.full_like(target, 7)), x)  # type: ignore[misc]
        assert value == 0
        assert (grad == 0).all()
    absent = torch.zeros_like(x, dtype=torch.uint8)  # of a dense target: no class at all
    value, grad = gradient(
        lambda x: LOSSES[name][1](x, absent, classes="present", method=method, impl=impl), x
    )
    assert value == 0
    assert (grad == 0).all()
    empty = LOSSES[name][1](x[:0], target[:0], per_image=True, ce_weight=1.0, impl=impl)
    assert empty == 0


@by_loss
@by_impl
def test_perfect_prediction(name: str, impl: str) -> None:
    _, target, _ = sample((2, 3, 4, 5), "labels", name)
    x = 60 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1).double() - 30
    value, grad = gradient(lambda x: LOSSES[name][1](x, target, ce_weight=1.0, impl=impl), x)
    assert 0 <= value < 1e-12
    assert grad.isfinite().all()


@by_loss
@by_impl
def test_nan_shows_though_its_class_is_absent(name: str, impl: str) -> None:
    x, target, _ = sample((2, 3, 4, 5), "rare", name)
    x[0, 2, 0, 0] = torch.nan
    call = LOSSES[name][1]
    assert call(x, target, classes="present", impl=impl).isnan()
    if name != "softmax":
        assert call(x, target, classes=[0, 1], impl=impl).isfinite()


@by_loss
@by_impl
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_dtypes(name: str, impl: str, dtype: torch.dtype) -> None:
    x, target, _ = sample((2, 3, 9, 8), "labels", name)
    x = x.to(dtype)
    value, grad = gradient(lambda x: LOSSES[name][1](x, target, ce_weight=1.0, impl=impl), x)
    true = oracles_lovasz.lovasz(name, x.double(), target, ce_weight=1.0)
    assert value.dtype == torch.float32
    assert grad.dtype == dtype
    assert_close(value, true, 1e-6)


@by_loss
def test_module_is_the_function(name: str) -> None:
    x, target, _ = sample((2, 3, 4, 5), "labels", name, torch.float32)
    module, function = LOSSES[name]
    loss = module(class_weight=[1.0, 2.0, 3.0], ce_weight=0.5, per_image=True)
    value = loss(x, target)
    again = function(x, target, class_weight=[1.0, 2.0, 3.0], ce_weight=0.5, per_image=True)
    assert torch.equal(value, again)
    assert torch.equal(copy.deepcopy(loss)(x, target), value)
    assert dict(loss.named_buffers())["class_weight"].tolist() == [1, 2, 3]
    assert not loss.state_dict()
    assert "ce_weight=0.5" in repr(loss)


BAD: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"classes": "some"}, ValueError, "classes must be 'present', 'all' or a sequence"),
    ({"classes": 1}, TypeError, "classes must be 'present', 'all' or a sequence"),
    ({"classes": [1.0]}, TypeError, "classes must be 'present', 'all' or a sequence"),
    ({"classes": []}, ValueError, "classes must hold different indices"),
    ({"classes": [1, 1]}, ValueError, "classes must hold different indices"),
    ({"classes": [-1]}, ValueError, "classes must hold different indices"),
    ({"per_image": 1}, TypeError, "per_image must be True or False"),
    ({"include_background": None}, TypeError, "include_background must be True or False"),
    ({"class_weight": 2.0}, TypeError, "class_weight must hold a number per class"),
    ({"ignore_index": "a"}, TypeError, "ignore_index must be an int or None"),
    ({"reduction": "average"}, ValueError, "reduction must be one of"),
    ({"ce_weight": -1.0}, ValueError, "ce_weight must be a finite number of at least 0"),
    ({"ce_weight": "1"}, TypeError, "ce_weight must be a number"),
    ({"method": "exact"}, ValueError, "method must be one of"),
    ({"bins": 5}, ValueError, "bins must be 9 to 16 times a power of two"),
    ({"sync": None}, TypeError, "sync must be True, False"),
    ({"sync": True, "method": "sort"}, ValueError, "method must be 'histogram' or 'auto'"),
    ({"impl": "gpu"}, ValueError, "impl must be one of"),
    ({"batch": True}, TypeError, "batch"),
    ({"smooth_nr": 1.0}, TypeError, "smooth_nr"),
)


@by_loss
def test_bad_keywords_are_refused_by_module_and_function(name: str) -> None:
    x, target, _ = sample((2, 3, 4, 5), "labels", name)
    module, function = LOSSES[name]
    for keywords, error, text in BAD:
        with pytest.raises(error, match=text):
            module(**keywords)
        with pytest.raises(error, match=text):
            function(x, target, **keywords)
    for keywords, text in (
        ({"classes": [3]}, r"classes must hold indices in \[0, 3\), got \[3\]"),
        ({"classes": [0], "include_background": False}, "leaves no class of classes"),
        ({"class_weight": [1.0]}, r"class_weight must hold 3 numbers.*\[1\]"),
        ({"voxel_weight": torch.ones(2, 1, 4, 5)}, "voxel_weight must be None"),
    ):
        with pytest.raises(ValueError, match=text):
            function(x, target, **keywords)
    with pytest.raises(ValueError, match="voxel_weight must be None"):
        module()(x, target, torch.ones(2, 1, 4, 5))


@pytest.mark.torch_compile
@by_loss
@by_impl
def test_compiles_for_any_size_and_number(name: str, impl: str) -> None:
    def loss(x: Tensor, target: Tensor, weight: float) -> Tensor:
        return LOSSES[name][1](x, target, ce_weight=weight, bins=1152, impl=impl)

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="eager")
    for size, weight in [((4, 5), 0.25), ((6, 7), 0.5)]:
        x, target, _ = sample((2, 3, *size), "labels", name, torch.float32)
        value, grad = gradient(lambda x, t=target, w=weight: loss(x, t, w), x)  # type: ignore[misc]
        other = gradient(lambda x, t=target, w=weight: compiled(x, t, w), x)  # type: ignore[misc]
        assert_close(other[0], value, 1e-6)
        assert relative_l2(other[1], grad) < 1e-6
    torch._dynamo.reset()
