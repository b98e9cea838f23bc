"""Calls the native region_sums in every way that might make it read or write where it must not.

The sanitizers watch the edges of allocations. What lies inside an allocation but outside the view
that is passed holds NaN, or a label that is no class, so that reading it shows in the result.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from segloss_fast import region_sums
from segloss_fast.ops.region_sums import ACTIVATIONS, TERMS
from tests.sanitizers.driver import attempt, every_instruction_set, share

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGER = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
LAYOUTS = ("contiguous", "channels_last", "sliced", "strided", "transposed", "expanded")
DISTINCT = LAYOUTS[:-1]  # that keep every value
# One voxel, less than a vector, primes, one more than a vector or a block, several chunks.
SHAPES = (
    *((1, 1), (2, 7), (3, 61), (1, 513), (1, 4099), (0, 5), (2, 0)),
    *((2, 1, 1), (2, 7, 11), (1, 64, 65), (1, 97, 101)),
    *((1, 1, 1, 1), (2, 2, 3, 5), (1, 31, 1, 17), (2, 13, 17, 23), (1, 21, 22, 23)),
)
CLASSES = (1, 2, 3, 4, 14, 40)
# What has loops of its own; where these begin and end: a vector and a block of either width.
FUSED = ("tp", "pred", "target", "nll", "focal", "weight")
LENGTHS = (1, 3, 4, 7, 8, 15, 16, 17, 127, 129, 255, 257, 511, 512, 513, 527, 4095, 4111, 9001)
NO_LABEL = 77
WILD = (torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e-40, 3e38, -3e38, 88.8, -104.0, 709.8)
LABELS = {
    torch.uint8: (NO_LABEL, 255),
    torch.int8: (NO_LABEL, 127, -1, -128),
    torch.int16: (NO_LABEL, 32767, -1, -32768),
    torch.int32: (NO_LABEL, 2**31 - 1, -1, -(2**31)),
    torch.int64: (2**32, 2**32 + 1, 2**63 - 1, -1, -(2**31), -(2**63)),
    torch.float32: (torch.nan, torch.inf, -torch.inf, 0.5, -0.5, 2.0**31, -(2.0**63), 1e38),
    torch.float64: (torch.nan, torch.inf, -torch.inf, 0.5, 2.0**31, 2.0**63, -1e300),
    torch.float16: (torch.nan, torch.inf, -torch.inf, 0.5, 65504.0),
    torch.bfloat16: (torch.nan, torch.inf, -torch.inf, 0.5, 1e38),
}
IGNORED = (None, None, 0, 1, 255, -100, -1, 2**31, 2**40, -(2**63), 2**63 - 1)

draw = random.Random(0)


class Options(TypedDict):
    activation: str
    ce_activation: str
    terms: Sequence[str]
    gamma: float


def lay_out(values: Tensor, layout: str) -> Tensor:
    """Return the values (those of the first item, if expanded) with other strides."""
    shape = values.shape
    guard = torch.nan if values.dtype.is_floating_point else NO_LABEL
    if layout == "expanded":
        return values[:1].expand(shape)
    if layout == "channels_last":
        view = values.new_empty(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
    elif layout == "transposed":
        view = values.new_empty(shape[::-1]).permute(*reversed(range(values.dim())))
    elif layout == "sliced":
        base = values.new_full([size + 3 for size in shape], guard)
        view = base[tuple(slice(1, size + 1) for size in shape)]
    elif layout == "strided":
        view = values.new_full((*shape[:-1], 2 * shape[-1]), guard)[..., 1::2]
    else:
        return values.clone()
    return view.copy_(values)


def random_input(shape: tuple[int, ...], dtype: torch.dtype, activation: str, wild: bool) -> Tensor:
    x = torch.randn(shape) * draw.choice((1.0, 10.0, 1e3))
    if activation == "probabilities":
        x = x.sigmoid()
    if wild:
        strange = torch.tensor(WILD)[torch.randint(len(WILD), shape)]
        x = torch.where(torch.rand(shape) < 0.3, strange, x)
    return x.to(dtype)


def random_target(
    shape: tuple[int, ...], dtype: torch.dtype, dense: bool, ignored: int | None
) -> Tensor:
    """Return valid class indices or values per class; some are ignored, not of several values."""
    if dense:
        target = (torch.rand(shape) * (1 if dtype.is_floating_point else 2)).to(dtype)
    else:
        high = 2 if shape[1] == 1 or dtype == torch.bool else shape[1]
        target = torch.randint(high, (shape[0], *shape[2:])).to(dtype)
    if ignored is not None and is_exact(ignored, dtype):
        target[torch.rand(target.shape) < 0.2] = ignored
    return target


def is_exact(label: int, dtype: torch.dtype) -> bool:
    """Whether a tensor of that dtype can hold the label."""
    if dtype.is_floating_point:
        return torch.tensor(label, dtype=dtype).item() == label
    return label in ((0, 1) if dtype == torch.bool else range_of(dtype))


def range_of(dtype: torch.dtype) -> range:
    return range(torch.iinfo(dtype).min, torch.iinfo(dtype).max + 1)


def random_weight(shape: tuple[int, ...]) -> Tensor | None:
    kind = draw.choice(("none", "shared", "per class"))
    if kind == "none":
        return None
    values = torch.randn(shape[0], 1 if kind == "shared" else shape[1], *shape[2:])
    return lay_out(values.to(draw.choice(FLOATING)), draw.choice(LAYOUTS))


def random_options(classes: int) -> Options:
    if classes > 1 and draw.random() < 0.3:
        terms = draw.sample(FUSED, draw.randint(1, len(FUSED)))
        return {"activation": "softmax", "ce_activation": "softmax", "terms": terms, "gamma": 2.0}
    activations = [name for name in ACTIVATIONS if classes > 1 or name != "softmax"]
    activation = draw.choice(activations)
    log_activation = activation
    if activation != "probabilities":
        log_activation = draw.choice([name for name in activations if name != "probabilities"])
    return {
        "activation": activation,
        "ce_activation": log_activation,
        "terms": TERMS if draw.random() < 0.4 else draw.sample(TERMS, draw.randint(1, 4)),
        "gamma": draw.choice((0.0, 0.3, 1.0, 2.0, 2.5)),
    }


def run_valid(dtype: torch.dtype, layout: str, target_dtype: torch.dtype, dense: bool) -> None:
    classes = draw.choice(CLASSES)
    batch, *space = draw.choice(SHAPES)
    shape = (batch, classes, *space)
    options = random_options(classes)
    ignored = None if dense and classes > 1 else draw.choice(IGNORED)
    wild = draw.random() < 0.3
    x = random_input(shape, dtype, options["activation"], wild)
    x = lay_out(x, layout).requires_grad_()
    target = random_target(shape, target_dtype, dense, ignored)
    target = lay_out(target, draw.choice(LAYOUTS))
    weight = random_weight(shape)
    case = f"{shape} {dtype} {layout} {target_dtype} {dense=} {ignored=} {wild=} {options}"
    try:
        sums = region_sums(
            x, target, voxel_weight=weight, ignore_index=ignored, impl="native", **options
        )
    except ValueError as error:
        raise AssertionError(f"{case}: {error}") from error
    incoming = torch.randn_like(sums.rows)
    if draw.random() < 0.5:
        incoming = incoming[:1, :1, :1].expand_as(incoming)
    (grad,) = torch.autograd.grad(sums.rows, x, incoming)
    assert wild or not (sums.rows.isnan().any() or grad.isnan().any()), f"{case}: NaN"


def run_fused(target_dtype: torch.dtype, classes: int, wild: bool) -> None:
    """Rows of voxels in place, between others that hold NaN or no label."""
    length, batch = draw.choice(LENGTHS), draw.randint(1, 2)
    shape = (batch, classes, length)
    ignored = draw.choice(IGNORED)
    base = torch.full((batch, classes + 2, length + 40), torch.nan)
    x = base[:, 1:-1, 20:-20].copy_(random_input(shape, torch.float32, "softmax", wild))
    target = random_target(shape, target_dtype, False, ignored)
    if ignored is not None and draw.random() < 0.5:  # only in some of the blocks
        target[:, draw.randint(0, length - 1) :] = 0
    target = lay_out(target, draw.choice(("contiguous", "sliced", "strided", "expanded")))
    terms = draw.sample(FUSED, draw.randint(1, len(FUSED)))
    x = x.detach().requires_grad_()
    sums = region_sums(x, target, terms=terms, gamma=2.0, ignore_index=ignored, impl="native")
    incoming = torch.randn_like(sums.rows) * draw.choice((1.0, 1e30, 1e300))
    (grad,) = torch.autograd.grad(sums.rows, x, incoming, allow_unused=True)
    case = f"{shape} {target_dtype} {ignored=} {terms}"
    assert wild or not sums.rows.isnan().any(), f"{case}: NaN"
    assert wild or incoming.abs().max() > 1e9 or not grad.isnan().any(), f"{case}: NaN"


def run_bad_label(dtype: torch.dtype, target_dtype: torch.dtype, label: float) -> None:
    """Forward counts the label and refuses it; backward, called by itself, must survive it."""
    classes = draw.choice(CLASSES[1:])
    batch, *space = draw.choice([shape for shape in SHAPES if 0 not in shape])
    shape = (batch, classes, *space)
    options = random_options(classes)
    x = lay_out(torch.randn(shape, dtype=dtype), draw.choice(LAYOUTS))
    target = random_target(shape, target_dtype, False, None).flatten()
    target[draw.choice((0, len(target) // 2, -1))] = label
    target = lay_out(target.view(batch, *space), draw.choice(DISTINCT))
    weight = random_weight(shape)
    for ignored in (None, 0, -(2**63)):
        if label == ignored:
            continue
        message = ""
        try:
            region_sums(
                x, target, voxel_weight=weight, ignore_index=ignored, impl="native", **options
            )
        except ValueError as error:
            message = str(error)
        case = f"{label} among {target_dtype} labels of {classes} classes, {ignored=}"
        assert "got 1 other values" in message, f"{case}: {message}"
        grad = torch.ones(len(options["terms"]), batch, classes, dtype=torch.float64)
        codes = (list(options["terms"]), options["activation"], options["ce_activation"])
        torch.ops.segloss_fast.region_sums_backward(
            grad, x, target, weight, *codes, options["gamma"], ignored, "native"
        )


def malformed_changes(x: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Return what to change in a good call, one thing at a time; first nothing."""
    other = (*INTEGER, torch.bool, torch.complex64)
    return [
        {},
        {"terms": []},
        {"terms": [-1]},
        {"terms": [15]},
        {"terms": [2**40]},
        {"terms": [0, 0, 0]},
        {"act": 7, "ce": -1},
        {"target": labels[:1]},
        {"target": labels[..., :6]},
        {"target": labels[:, :, 0]},
        {"target": x[:, :2]},
        {"target": labels[..., None, None]},
        {"target": labels.to(torch.complex64)},
        {"weight": x[:, :2]},
        {"weight": x[..., :1]},
        {"weight": x[:1]},
        {"weight": labels},
        {"weight": x[:, :1].to(torch.int32)},
        {"input": x[:, :, 0, 0]},
        {"input": x[:, :, None, None, None]},
        {"input": x[:, :0]},
        {"input": x[:, :1]},
        *({"input": x.to(dtype)} for dtype in other),
    ]


def run_malformed() -> None:
    """Calls that Python's checks would refuse, made directly: an error, or a harmless answer."""
    x, labels = torch.randn(2, 3, 5, 7), torch.zeros(2, 5, 7, dtype=torch.int64)
    good: dict[str, Any] = {
        "input": x,
        "target": labels,
        "weight": None,
        "terms": [0, 1],
        "act": 0,
        "ce": 0,
    }
    for change in malformed_changes(x, labels):
        call = {**good, **change}
        weights = [] if call["weight"] is None else [call["weight"]]
        codes = (call["terms"], call["act"], call["ce"], 2.0, None)
        lists = [([call["input"]], [call["target"]], weights)]
        if not change:
            lists += [([], [], []), ([x], [], []), ([x], [labels] * 2, []), ([x] * 2, [labels], [])]
            lists += [([x] * 2, [labels] * 2, [x]), ([x, x[:1]], [labels, labels[:1]], [])]
            lists += [([x, x.double()], [labels] * 2, []), ([x, x[:, :2]], [labels] * 2, [])]
        rows = len(call["terms"])
        for size in (rows * 6, rows * 2, rows * 6 + 1, 0):
            grad = torch.ones(size, dtype=torch.float64)
            for dtype, tensors in itertools.product((torch.float64, torch.float32), lists):
                attempt("_region_sums_backward", grad.to(dtype), *tensors, *codes)
        for tensors in lists:
            attempt("_region_sums", *tensors, *codes)


def run_all() -> None:
    targets = (torch.bool, *INTEGER, *FLOATING)
    for case in share(itertools.product(FLOATING, LAYOUTS, targets, (False, True))):
        run_valid(*case)
    for fused in share(itertools.product(targets, CLASSES[1:], (False, True))):
        run_fused(*fused)
    bad = [(target, label) for target, labels in LABELS.items() for label in labels]
    for dtype, (target, label) in share(itertools.product(FLOATING, bad)):
        run_bad_label(dtype, target, label)
    run_malformed()
    # Large enough for huge pages under the gradient.
    x = torch.randn(1, 3, 128, 96, 100, requires_grad=True)
    sums = region_sums(x, torch.zeros(1, 128, 96, 100), impl="native")
    torch.autograd.grad(sums.rows, x, torch.ones_like(sums.rows))


if __name__ == "__main__":
    every_instruction_set(run_all)
