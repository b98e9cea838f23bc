"""Random problems that need few kernels: Triton compiles one for each set of constants, in seconds.

A machine with a device is had for minutes. What decides how a kernel is compiled (dtypes, number of
classes, kind of target and weight, layout, whether vectors fit) is therefore taken from short
lists; sizes, values, strides within a layout and numbers are random. tests/test_gpu_variants.py
counts the kernels.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from segloss_fast.ops.hardest_voxels import Rule
from tests.conformance import COMMON, LOSSES, Keywords, LossRecord, combine
from tests.ops.distance_transform_cases import lay_out
from tests.ops.hardest_voxels_cases import (
    KS,
    LABELS,
    Case,
    random_input,
    random_target,
    random_weight,
)
from tests.ops.region_masks_cases import random_labels

# Of voxels: multiples of what a thread may load at once, and none.
WHOLE: tuple[tuple[int, ...], ...] = (
    (8,),
    (256,),
    (1032,),
    (4, 6),
    (33, 40),
    (2, 3, 4),
    (9, 16, 8),
)
ODD: tuple[tuple[int, ...], ...] = (
    (7,),
    (515,),
    (5, 7),
    (33, 41),
    (3, 5, 7),
    (5, 3, 9),
    (17, 9, 5),
)
LEFT = ("ignore", "dense", "weighted")  # the other kinds of tests/conformance.py


@dataclass(frozen=True)
class Constants:
    """What of a TopK problem decides how its kernel is compiled.

    Attributes:
        classes: C.
        input: Its dtype.
        target: Likewise; values if ``dense``.
        dense: Whether the target holds values.
        channels: Of the voxel weight: 0 (there is none), 1 or C.
        scaled: Whether classes have weights.
        ignores: Whether a label or value does not count.
        spaces: WHOLE or ODD.
        layout: Of all tensors.
    """

    classes: int
    input: torch.dtype
    target: torch.dtype
    dense: bool = False
    channels: int = 0
    scaled: bool = False
    ignores: bool = False
    spaces: tuple[tuple[int, ...], ...] = WHOLE
    layout: str = "contiguous"


F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
CONSTANTS: dict[str, tuple[Constants, ...]] = {
    "softmax": (
        Constants(4, F32, torch.uint8, ignores=True),
        Constants(3, F16, torch.int64, channels=1, scaled=True, spaces=ODD),
        Constants(17, BF16, torch.int32, ignores=True, layout="channels_last"),
        Constants(5, F32, F32, dense=True, channels=5, layout="transposed", spaces=ODD),
    ),
    "sigmoid": (
        Constants(1, F32, torch.bool),
        Constants(16, F16, torch.int8, channels=1, ignores=True, spaces=ODD),
        Constants(2, BF16, F64, dense=True, scaled=True),
        Constants(40, F32, F32, channels=40, spaces=ODD, layout="channels_last"),
    ),
    "probabilities": (
        Constants(1, F32, F32, dense=True, ignores=True),
        Constants(3, F32, torch.int16, scaled=True, ignores=True, spaces=ODD),
        Constants(5, F16, F16, dense=True, channels=1),
        Constants(16, BF16, torch.int64, layout="transposed", spaces=ODD),
    ),
}


TOPK_PROBLEMS = 150  # of each activation
TOPK_CLASSES = (1, 2, 16, 17, 105, 128, 129, 200)


def topk_problems(activation: str) -> Iterator[Case]:
    """Yield random problems of hardest_voxels, which need about as many kernels as CONSTANTS."""
    draw = random.Random(activation)
    kinds = CONSTANTS[activation]
    for place in range(TOPK_PROBLEMS):
        yield topk_case(draw, activation, kinds[place % len(kinds)])


def topk_classes(classes: int) -> Iterator[Case]:
    """Yield problems of so many classes: some dtypes of labels (all with TOPK_CLASSES), values."""
    draw = random.Random(classes)
    x = random_input((2, classes, 30, 41), F32, "softmax", draw)
    place = TOPK_CLASSES.index(classes)
    for dtype in LABELS[place :: len(TOPK_CLASSES)]:
        labels = random_labels((2, 30, 41), classes, dtype, draw)
        yield Case(x, labels, None, Rule(30.0, "softmax", ignore_index=1))
    for activation in ("softmax", "sigmoid"):
        values = random_target(x.shape, F32, draw)
        weight = random_weight(x.shape, classes, draw).float()
        yield Case(x, values, weight, Rule(30.0, activation))


def topk_case(draw: random.Random, activation: str, constants: Constants) -> Case:
    """Return a problem of hardest_voxels with these constants, and everything else random."""
    space = draw.choice(constants.spaces)
    shape = (draw.choice((1, 2, 3)), constants.classes, *space)
    if constants.dense:
        target = random_target(shape, constants.target, draw)
    else:
        labels = (shape[0], *space)
        target = random_labels(labels, constants.classes, constants.target, draw)
    weight = None
    if constants.channels:
        weight = random_weight(shape, constants.channels, draw).float()
        weight = lay_out(weight, constants.layout)
    scales = torch.rand(constants.classes, dtype=F64) + 0.1 if constants.scaled else None
    ignored = draw.choice((0, 1, constants.classes)) if constants.ignores else None
    rule = Rule(draw.choice(KS), activation, draw.choice((0, 0, 1, 7)), scales, ignored)
    x = random_input(shape, constants.input, activation, draw)
    return Case(lay_out(x, constants.layout), lay_out(target, constants.layout), weight, rule)


def loss_problems() -> Iterator[tuple[LossRecord, str]]:
    """Yield each loss with kinds of problems: labels, an absent class, and one of the others."""
    for place, record in enumerate(LOSSES):
        for kind in ("labels", "absent", LEFT[place % len(LEFT)]):
            yield record, kind


def loss_keywords(record: LossRecord, kind: str) -> Iterator[Keywords]:
    """Yield the keywords with which a loss is tried on a kind of problem.

    On labels all of its own with all that losses have in common; where the target or weight is of
    another kind, with the first of its own. Every third loss has the other activations.
    """
    place = LOSSES.index(record)
    for own in record.keywords:
        first = own is record.keywords[0]
        if kind in LEFT and not first:
            continue
        for common in COMMON:
            activated = "activation" in common
            if activated and not (first and kind not in LEFT and place % 3 == 0):
                continue
            keywords = combine(record, own, common)
            # A ratio of float32 sums without smoothing amplifies their rounding.
            if keywords is not None and keywords.get("smooth_dr") != 0:
                yield keywords
