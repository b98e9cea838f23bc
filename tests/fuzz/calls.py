"""Random calls of the losses and the public operators, and what must be true of their results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import segloss_fast
from segloss_fast.ops.region_sums import ACTIVATIONS, TERMS
from tests.fuzz.draw import Draw, Problem
from tests.records import LOSSES, LOVASZ_LOSSES

# Errors by which a call may be refused. An assertion of torch or of ours is none.
REFUSALS = (TypeError, ValueError, RuntimeError, NotImplementedError)
COMMON: dict[str, tuple[Any, ...]] = {
    "activation": ("softmax", "sigmoid", "probabilities", "relu"),
    "include_background": (True, False, 1),
    "batch": (False, True, "yes"),
    "reduction": ("mean", "sum", "none", "median"),
    "absent": ("keep", "skip", "zero", "drop"),
    "class_weight": (None, [1.0, 2.0], [0.5, 0.0, 1.5], [1.0, float("nan"), 2.0], 3.0),
    "smooth_nr": (1e-5, 0.0, 1.0, -1.0, float("inf")),
    "smooth_dr": (1e-5, 0.0, 1.0, "a"),
    "impl": ("auto", "reference", "cuda"),
}
LOVASZ: dict[str, tuple[Any, ...]] = {
    "classes": ("present", "all", [0], [7], "none"),
    "per_image": (False, True),
    "ce_weight": (0.0, 1.0, -1.0),
    "method": ("auto", "sort", "histogram", "hash"),
    "bins": (None, 72, 2048, 77, 0, 2**40),
    **{key: COMMON[key] for key in ("include_background", "reduction", "class_weight")},
}


def run(seed: int) -> str:
    """Make the call that a seed gives; return what came of it, AssertionError if that is wrong."""
    draw = Draw(seed)
    kinds: tuple[Callable[[Draw], str], ...] = (
        _loss,
        _loss,
        _lovasz,
        _sums,
        _distance,
        _components,
    )
    return kinds[seed % len(kinds)](draw)


def _keywords(draw: Draw, options: dict[str, tuple[Any, ...]], likely: float) -> dict[str, Any]:
    """Return some options, mostly such as are allowed, which come first."""
    found = {}
    for name, values in options.items():
        if draw.random.random() < likely:
            good = draw.random.random() < 0.98
            found[name] = draw.random.choice(values[: max(1, len(values) - 2)] if good else values)
    return found


def _loss(draw: Draw) -> str:
    record = draw.random.choice(LOSSES)
    problem = draw.problem(fewest=record.fewest_classes, hard=record.hard)
    keywords = {**draw.random.choice(record.keywords)}
    keywords |= record.accepts(_keywords(draw, COMMON, 0.25))
    keywords["ignore_index"] = problem.ignore_index
    if keywords.get("activation") == "probabilities" and problem.input.is_floating_point():
        problem.input = problem.input.sigmoid()

    def call(x: Tensor, impl: dict[str, str]) -> Tensor:
        module = record.module(**{**keywords, **impl})
        found: Tensor = module(x, problem.target, problem.weight)
        return found

    return _judge(f"{record.name}({keywords})", problem, call)


def _lovasz(draw: Draw) -> str:
    module, _ = draw.random.choice(list(LOVASZ_LOSSES.values()))
    problem = draw.problem()
    if "weight" not in problem.bad:
        problem.weight = None  # it takes none
    keywords = {**_keywords(draw, LOVASZ, 0.3), "ignore_index": problem.ignore_index}
    return _judge(
        f"{module}({keywords})",
        problem,
        lambda x, impl: module(**{**keywords, **impl})(x, problem.target, problem.weight),
        # Of equal errors, and within the bins, whose sum is to 2^-16 of a bin.
        tolerance=1e-2,
    )


def _sums(draw: Draw) -> str:
    problem = draw.problem()
    terms = draw.random.sample(TERMS, draw.random.randint(1, 4))
    keywords = {
        "activation": draw.random.choice(ACTIVATIONS),
        "terms": terms,
        "gamma": draw.random.choice((None, 2.0, 0.5)),
        "ignore_index": problem.ignore_index,
        "voxel_weight": problem.weight,
    }
    if keywords["activation"] == "probabilities" and problem.input.is_floating_point():
        problem.input = problem.input.sigmoid()

    def call(x: Tensor, impl: dict[str, str]) -> Tensor:
        sums = segloss_fast.region_sums(x, problem.target, **keywords, **impl)  # type: ignore[arg-type]
        return torch.stack([getattr(sums, term) for term in terms])

    return _judge(f"region_sums({terms} {keywords['activation']})", problem, call)


def _distance(draw: Draw) -> str:
    shape = (draw.random.choice((0, 1, 2)), 2, *draw.random.choice(((0,), (7,), (6, 9), (4, 5, 8))))
    mask = draw.lay_out(
        (torch.rand(shape) < draw.random.random()).to(
            draw.random.choice((torch.bool, torch.uint8, torch.int64, torch.float32, torch.float16))
        )
    )
    spacing = draw.random.choice((None, 0.5, 1.0, [1.0] * (len(shape) - 2), [2.0], 0.0, -1, 1e300))
    name = draw.random.choice(("distance_transform", "nearest_component"))
    keywords: dict[str, Any] = {"spacing": spacing}
    if name == "distance_transform":
        keywords["side"] = draw.random.choice(("inside", "outside", "both", "signed", "left"))
    else:
        mask = mask.to(torch.int32)

    def call(impl: str) -> Tensor:
        found: Tensor = getattr(segloss_fast, name)(mask, **keywords, impl=impl)
        return found

    return _compare(f"{name}({shape} {mask.dtype} {keywords})", call, 1e-5)


def _components(draw: Draw) -> str:
    shape = (
        draw.random.choice((0, 1, 3)),
        1,
        *draw.random.choice(((0,), (9,), (7, 70), (5, 6, 7))),
    )
    labels = draw.lay_out(
        torch.randint(0, draw.random.choice((2, 4)), shape).to(
            draw.random.choice((torch.bool, torch.uint8, torch.int16, torch.int64, torch.float32))
        )
    )
    keywords: dict[str, Any] = {
        "connectivity": draw.random.choice(("full", 1, 2, 3, 0, 4, "none")),
        "by_value": draw.random.choice((False, True)),
        "ignore_index": draw.random.choice((None, None, 1, 255, 2**40)),
    }

    def call(impl: str) -> Tensor:
        return segloss_fast.connected_components(labels, **keywords, impl=impl).labels

    return _compare(f"connected_components({shape} {labels.dtype} {keywords})", call, 0.0)


def _compare(name: str, call: Callable[[str], Tensor], tolerance: float) -> str:
    """Make a call without derivative both ways."""
    found, expected = _attempt(lambda: call("auto")), _attempt(lambda: call("reference"))
    if isinstance(found, Exception) or isinstance(expected, Exception):
        return _refused(name, found, expected)
    torch.testing.assert_close(
        found,
        expected,
        rtol=tolerance,
        atol=tolerance,
        equal_nan=True,
        msg=lambda said: f"{name}: {said}",
    )
    return "served"


def _judge(
    name: str,
    problem: Problem,
    call: Callable[[Tensor, dict[str, str]], Tensor],
    tolerance: float = 1e-3,
) -> str:
    """Make a call, its gradient, and the same by the reference, and compare them."""
    name = f"{name} of {_of(problem.input)}, {_of(problem.target)}, {_of(problem.weight)}"
    name += f", ignored {problem.ignore_index}, wild {problem.wild}, bad: {problem.bad}"
    before = [t.clone() for t in (problem.input, problem.target) if isinstance(t, Tensor)]

    def step(impl: dict[str, str]) -> tuple[Tensor, Tensor]:
        x = problem.input.detach()
        if x.is_floating_point():
            x.requires_grad_()
        value = call(x, impl)
        (grad,) = torch.autograd.grad(value.double().sum(), x)
        x.requires_grad_(False)
        return value.detach(), grad

    found, expected = _attempt(lambda: step({})), _attempt(lambda: step({"impl": "reference"}))
    after = [t for t in (problem.input, problem.target) if isinstance(t, Tensor)]
    for a, b in zip(before, after, strict=True):
        assert torch.equal(_bits(a), _bits(b)), f"{name}: its input was changed"
    if isinstance(found, Exception) or isinstance(expected, Exception):
        return _refused(name, found, expected)
    assert not problem.bad, f"{name}: served, though bad"
    value, grad = found
    assert grad.shape == problem.input.shape, name
    assert grad.dtype == problem.input.dtype, name
    if problem.wild:
        return "served"
    rough = problem.input.dtype in (torch.float16, torch.bfloat16)
    for what, a, b in (("value", value, expected[0]), ("gradient", grad, expected[1])):
        a, b = a.double(), b.double()
        assert torch.equal(a.isnan(), b.isnan()), f"{name}: NaN in one {what}"
        scale = b.nan_to_num(0, 0, 0).abs().max() if b.numel() else 0
        bound = (0.02 if rough else tolerance) * scale + 1e-6
        worst = (a - b).nan_to_num(0, 0, 0).abs().max() if b.numel() else 0
        assert worst <= bound, f"{name}: {what} is {worst} off, {scale} at most"
    return "served"


def _of(tensor: object) -> str:
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    return f"{list(tensor.shape)} {tensor.dtype} {tensor.stride()}"


def _bits(tensor: Tensor) -> Tensor:
    """Return a tensor as it can be compared where some of it is NaN."""
    return tensor.nan_to_num(-7.5) if tensor.is_floating_point() else tensor


def _attempt(call: Callable[[], Any]) -> Any:  # noqa: ANN401
    try:
        return call()
    except REFUSALS as error:
        return error


def _refused(name: str, found: object, expected: object) -> str:
    """Both ways must refuse a call, or neither, with an error that says something to people."""
    if "must begin at a multiple" in str(found) and not isinstance(expected, Exception):
        return "refused misaligned"  # which kernels do not read, and PyTorch does
    assert isinstance(found, Exception), f"{name}: only the reference refuses: {expected!r}"
    assert isinstance(expected, Exception), f"{name}: the reference serves it: {found!r}"
    said = str(found)
    assert len(said) > 15, f"{name}: {found!r} says nothing"
    for word in ("INTERNAL ASSERT", "should never happen", "please report", "bug"):
        assert word not in said, f"{name}: {said}"
    return f"refused {type(found).__name__}"
