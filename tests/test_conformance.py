"""Every loss of the conformance table against its definition, and what all losses promise."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

import segloss_fast
from segloss_fast.losses import __all__ as LOSS_NAMES
from tests import oracles
from tests.conformance import (
    CLASSES,
    COMMON,
    COMMON_BAD_KEYWORDS,
    LOSSES,
    LossRecord,
    Problem,
    combine,
    problem,
)
from tests.helpers import IMPLS, assert_close, count_formulas, gradient, relative_l2
from tests.records import LOVASZ_LOSSES
from tests.suite.tiers import begins_in, few

by_loss = pytest.mark.parametrize("record", LOSSES, ids=lambda record: record.name)
by_impl = pytest.mark.parametrize("impl", IMPLS)
# Those that tell the most first.
KINDS = ("ignore", "dense", "class_weighted", "absent", "labels", "weighted")
# The reference's gradient is torch's own, of formulas that equal the definition.
by_autograd = pytest.param("reference", marks=begins_in("all"))


def run(
    record: LossRecord, case: Problem, keywords: dict[str, Any], impl: str
) -> tuple[Tensor, Tensor]:
    """Return the loss, and the gradient of a weighted sum of its values."""
    x = case.input.sigmoid() if keywords.get("activation") == "probabilities" else case.input

    def loss(x: Tensor) -> Tensor:
        return record.function(
            x, case.target, case.voxel_weight, ignore_index=case.ignore_index, impl=impl, **keywords
        )

    return gradient(loss, x)


def expected(record: LossRecord, case: Problem, keywords: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the same by the definition."""
    x = case.input.sigmoid() if keywords.get("activation") == "probabilities" else case.input
    options = {**keywords, "ignore_index": case.ignore_index}

    def loss(x: Tensor) -> Tensor:
        return record.oracle(oracles.volume(x, case.target, case.voxel_weight, options))

    return gradient(loss, x.double())


@lru_cache(2 * len(LOSSES))  # until the other implementations of the same have asked
def definitions(place: int, kind: str) -> list[tuple[dict[str, Any], Tensor, Tensor]]:
    """Return all sets of keywords of a loss, with its value and gradient by the definition."""
    record = LOSSES[place]
    case = problem(kind, hard=record.hard)
    both = ((own, common) for own in record.keywords for common in COMMON)
    found = (combine(record, own, common) for own, common in both)
    return [(kept, *expected(record, case, kept)) for kept in found if kept is not None]


def test_every_loss_has_a_record() -> None:
    wrappers = {"DeepSupervisionLoss", "WeightedSum"}  # of the losses that have: tests/losses
    wrappers.add("SkeletonRecallLoss")  # needs one more map: tests/losses/test_skeleton_recall.py
    # Lovász losses have keywords of their own, and tests/losses/test_lovasz.py.
    lovasz = {module.__name__ for module, _ in LOVASZ_LOSSES.values()}
    assert {record.name for record in LOSSES} | lovasz == set(LOSS_NAMES) - wrappers


@by_loss
@by_impl
@pytest.mark.parametrize("kind", few(KINDS, test=4))
def test_equals_its_definition(record: LossRecord, impl: str, kind: str) -> None:
    truths = definitions(LOSSES.index(record), kind)
    assert len(truths) >= 8
    for keywords, true_value, true_grad in truths:
        value, grad = run(record, problem(kind, hard=record.hard), keywords, impl)
        assert value.shape == true_value.shape, keywords
        assert_close(value, true_value, record.tolerance, keywords)
        assert relative_l2(grad, true_grad) < 10 * record.tolerance, keywords


@by_loss
@by_impl
@pytest.mark.parametrize("size", few([(97,), (2, 3, 5), (1,), (3, 5), (9, 8, 33)], test=5), ids=str)
def test_any_rank_and_size(record: LossRecord, impl: str, size: tuple[int, ...]) -> None:
    case = problem("labels", size)
    value, grad = run(record, case, {}, impl)
    true_value, true_grad = expected(record, case, {})
    assert_close(value, true_value, record.tolerance)
    assert relative_l2(grad, true_grad) < 10 * record.tolerance


@by_loss
@by_impl
@pytest.mark.parametrize("count", [1, 2])
def test_few_ignored_voxels(record: LossRecord, impl: str, count: int) -> None:
    case = problem("labels")
    case.target.flatten()[17 : 17 + count] = 255
    x = case.input.clone()
    x[0, :, 0, 2, 3 : 3 + count] = torch.nan  # the same voxels
    ignoring = Problem(case.input, case.target, None, 255)
    value, grad = run(record, Problem(x, case.target, None, 255), {}, impl)
    true_value, true_grad = expected(record, ignoring, {})
    assert_close(value, true_value, record.tolerance)
    assert relative_l2(grad, true_grad) < 10 * record.tolerance


@by_loss
@by_impl
def test_one_class(record: LossRecord, impl: str) -> None:
    case = problem("labels", classes=1)
    if record.fewest_classes > 1:
        with pytest.raises(ValueError, match="input must have at least two"):
            run(record, case, {"activation": "sigmoid"}, impl)
        return
    value, grad = run(record, case, {"activation": "sigmoid"}, impl)
    true_value, true_grad = expected(record, case, {"activation": "sigmoid"})
    assert_close(value, true_value, record.tolerance)
    assert relative_l2(grad, true_grad) < 10 * record.tolerance


@by_loss
@pytest.mark.parametrize("impl", [i if i != "reference" else by_autograd for i in IMPLS])
def test_gradcheck(record: LossRecord, impl: str) -> None:
    case = problem("ignore", (3, 4))
    for own in record.keywords:
        module = record.module(**own, ignore_index=255, impl=impl)
        x = case.input.requires_grad_()
        assert torch.autograd.gradcheck(lambda x, m=module: m(x, case.target), (x,), eps=1e-6)


@by_loss
@by_impl
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes_equal_the_rounded_input_in_float64(
    record: LossRecord, impl: str, dtype: torch.dtype
) -> None:
    case = problem("ignore", (9, 13, 31), dtype=dtype)
    value, grad = run(record, case, {}, impl)
    true_value, true_grad = expected(record, case, {})
    assert value.dtype == torch.float32
    assert grad.dtype == dtype
    assert_close(value, true_value, 1e-6)
    # The gradient of float16 is judged under a scaled loss: unscaled, most of it is denormal.
    scale = 2.0**14
    x = case.input.clone().requires_grad_()
    loss = record.function(x, case.target, ignore_index=255, impl=impl)
    (scale * loss).backward()
    assert x.grad is not None
    step = {torch.float32: record.float32, torch.bfloat16: 4e-3, torch.float16: 5e-4}[dtype]
    assert relative_l2(x.grad.double() / scale, true_grad) < step


@by_loss
@by_impl
def test_autocast_changes_nothing(record: LossRecord, impl: str) -> None:
    """Float32 logits stay what they are: half precision is for the network."""
    case = problem("labels", dtype=torch.float32)
    for keywords in record.keywords:
        plain = run(record, case, dict(keywords), impl)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = run(record, case, dict(keywords), impl)
        assert found[0].dtype == torch.float32
        assert all(torch.equal(*pair) for pair in zip(plain, found, strict=True)), keywords


@by_loss
@by_impl
def test_layouts_are_read_in_place(record: LossRecord, impl: str) -> None:
    case = problem("labels", (4, 6, 5))
    value, grad = run(record, case, {}, impl)
    wide = torch.randn(2, CLASSES + 2, 4, 6, 10, dtype=torch.float64)
    wide[:, 1:-1, ..., ::2] = case.input
    layouts = {
        "channels_last": case.input.to(memory_format=torch.channels_last_3d),
        "sliced": wide[:, 1:-1, ..., ::2],
        "transposed": case.input.transpose(2, 4).contiguous().transpose(2, 4),
    }
    for name, x in layouts.items():
        before = x.clone()
        other, other_grad = run(record, Problem(x, case.target, None, None), {}, impl)
        assert_close(other, value, 1e-14, name)
        assert relative_l2(other_grad, grad) < 1e-14, name
        assert torch.equal(x, before), name
    assert run(record, Problem(layouts["channels_last"], case.target, None, None), {}, impl)[
        1
    ].is_contiguous(memory_format=torch.channels_last_3d)


@by_loss
def test_module_is_the_function(record: LossRecord) -> None:
    case = problem("weighted", dtype=torch.float32)
    for own in record.keywords:
        module = record.module(**own, class_weight=[1.0, 2.0, 3.0])
        value = module(case.input, case.target, case.voxel_weight)
        function = record.function(
            case.input, case.target, case.voxel_weight, class_weight=[1.0, 2.0, 3.0], **own
        )
        assert torch.equal(value, function)
        assert torch.equal(copy.deepcopy(module)(case.input, case.target, case.voxel_weight), value)
        assert dict(module.named_buffers())["class_weight"].tolist() == [1, 2, 3]
        assert not module.state_dict()
        assert "class_weight=[1.0, 2.0, 3.0]" in repr(module)
        assert module.__doc__


@by_loss
def test_bad_keywords_are_refused_by_module_and_function(record: LossRecord) -> None:
    case = problem("labels")
    for keywords, error, text in (*record.bad_keywords, *COMMON_BAD_KEYWORDS):
        with pytest.raises(error, match=text):
            record.module(**keywords)
        with pytest.raises(error, match=text):
            record.function(case.input, case.target, **keywords)
    with pytest.raises(ValueError, match=r"class_weight must hold 3 numbers.*\[2\]"):
        record.function(case.input, case.target, class_weight=[1.0, 2.0])


def backend_of(record: LossRecord, impl: str) -> str:
    """Return what compiles a loss: the whole pipeline only where tests/ops has not tried it.

    A formula over region_sums adds no operator, and the reference has none, so that the graph says
    all.
    """
    plain = impl == "reference" or record.primitives == ("region_sums",)
    return "eager" if plain else "aot_eager"


def graphs(*, few: bool = False) -> list[tuple[str, LossRecord]]:
    """Return every loss natively; of the reference each kind, or few: one per set of primitives."""
    own = [r for r in LOSSES if r.primitives != ("region_sums",)]
    some = [r for r in LOSSES if r.name in ("DiceCELoss", "ExpLogLoss", "GeneralizedDiceLoss")]
    natively = [(impl, r) for impl in IMPLS if impl != "reference" for r in LOSSES]
    plain = list({r.primitives: r for r in own + some}.values()) if few else own + some
    return natively + [("reference", r) for r in plain]


def by_graph(found: list[tuple[str, LossRecord]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("impl", "record"), found, ids=lambda v: getattr(v, "name", v))


@pytest.mark.torch_compile
@by_graph(graphs())
def test_compiles_into_one_graph(record: LossRecord, impl: str) -> None:
    case = problem("ignore", dtype=torch.float32)
    module = record.module(ignore_index=255, impl=impl)
    compiled = torch.compile(module, fullgraph=True, backend=backend_of(record, impl))
    value, grad = gradient(lambda x: module(x, case.target), case.input)
    other, other_grad = gradient(lambda x: compiled(x, case.target), case.input)
    torch._dynamo.reset()
    assert_close(other, value, 1e-6)
    assert relative_l2(other_grad, grad) < 1e-6


@begins_in("all")
@pytest.mark.torch_compile
@by_graph(graphs(few=True))
def test_compiles_for_any_size_and_number(record: LossRecord, impl: str) -> None:
    """The graph alone: of each operator opcheck tries the rest of the way with sizes left open."""

    def loss(x: Tensor, target: Tensor, value: float) -> Tensor:
        own = {record.number: value} if record.number else {}
        result: Tensor = record.function(x, target, impl=impl, **own)
        return result

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="eager")
    for size, value in [((4, 5), 0.25), ((6, 7), 0.5)]:
        case = problem("labels", size, dtype=torch.float32)
        expected_value = loss(case.input, case.target, value)
        assert_close(compiled(case.input, case.target, value), expected_value, 1e-6)
    torch._dynamo.reset()


@by_loss
def test_one_pass_over_the_volume(record: LossRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def counted(*arguments: Any, **keywords: Any) -> segloss_fast.RegionSums:  # noqa: ANN401
        calls.append(keywords["terms"])
        return segloss_fast.region_sums(*arguments, **keywords)

    monkeypatch.setattr("segloss_fast.losses._reduce.region_sums", counted)
    count_formulas(monkeypatch, calls)
    case = problem("labels")
    record.function(case.input, case.target)
    assert len(calls) == record.passes
    assert all(set(terms) <= set(record.terms_again) for terms in calls[1:])
