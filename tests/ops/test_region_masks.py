"""What region_masks promises on every machine: the masks of its definition in float64."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import segloss_fast
from segloss_fast._check import FLOATING
from segloss_fast.ops.region_masks import prediction_masks, target_masks
from segloss_fast.ops.region_masks.op import kernels
from segloss_fast.ops.region_masks.reference import MODES
from tests.machines import Machine, on, sized
from tests.ops.distance_transform_cases import LAYOUTS, lay_out
from tests.ops.region_masks_cases import (
    CLASSES,
    DTYPES,
    Case,
    compare,
    far_apart,
    near_one_half,
    not_finite,
    random_case,
    random_labels,
    random_values,
    run,
)
from tests.suite.tiers import begins_in

publicly = on("reference", "native", "interpreted", "cuda")  # the shim has operators only
SIZES = [(1,), (513,), (5, 7), (3, 20, 33)]
# Around a thread's voxels and a block's.
SPACES = [*SIZES, (4, 5), (3, 4, 5), (2, 8, 16), (1023,), (1024,), (1025,), (1028,), (2, 1026)]


def logits(classes: int, size: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(classes)
    return (3 * torch.randn(2, classes, *size)).to(dtype)


@publicly
@sized("size", SIZES, interpreted=[(5, 7)])
@sized("classes", [1, 2, 5], interpreted=[2])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_prediction(
    machine: Machine, size: tuple[int, ...], classes: int, dtype: torch.dtype
) -> None:
    x = logits(classes, size, dtype)
    labels = torch.randint(0, max(classes, 2), (2, *size))
    labels[torch.rand(labels.shape) < 0.3] = 9
    counted = (labels != 9)[:, None]
    exact = x.double()
    expected = {"sigmoid": exact > 0, "probabilities": exact > 0.5}
    if classes > 1:
        expected["softmax"] = exact.softmax(1) > 0.5
    x, labels = machine.place(x), machine.place(labels)
    for activation, inside in expected.items():
        for first in machine.pick((0, 1), interpreted=(1,)):
            wanted = inside.clone()
            wanted[:, :first] = False
            for ignored, known in ((None, wanted), (9, wanted & counted)):
                found = prediction_masks(
                    x,
                    labels,
                    activation=activation,
                    first=first,
                    ignore_index=ignored,
                    impl=machine.impl,
                )
                assert found.dtype == torch.bool
                assert found.is_contiguous()
                assert torch.equal(found.cpu(), known), activation


@publicly
@sized("size", SIZES, interpreted=[(5, 7)])
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float32]
)
def test_labels(machine: Machine, size: tuple[int, ...], dtype: torch.dtype) -> None:
    labels = torch.randint(0, 5, (2, *size)).to(dtype)
    target = machine.place(labels)
    for classes in machine.pick((1, 2, 5), interpreted=(5,)):
        c = torch.arange(classes).view(1, -1, *[1] * len(size))
        wanted = (labels == 1)[:, None] if classes == 1 else labels[:, None] == c
        found = target_masks(target, classes, dense=False, impl=machine.impl)
        assert torch.equal(found.cpu(), wanted)
        options = {"dense": False, "ignore_index": 1, "first": 1}
        found = target_masks(target, classes, **options, impl=machine.impl)  # type: ignore[arg-type]
        wanted = wanted & (labels != 1)[:, None]
        wanted[:, 0] = False
        assert torch.equal(found.cpu(), wanted)


@publicly
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_values(machine: Machine, dtype: torch.dtype) -> None:
    values = torch.rand(2, 3, 5, 9).mul(2 if dtype != torch.float32 else 1).to(dtype)
    found = target_masks(machine.place(values), 3, dense=True, impl=machine.impl)
    assert torch.equal(found.cpu(), values > 0.5)


def test_labels_of_a_dtype_that_does_not_hold_all_classes(machine: Machine) -> None:
    """A label of -128 is none of them: it is not class 128."""
    labels = torch.tensor([[5, -128, 127, -1]], dtype=torch.int8)
    found = run(machine, Case(labels, None, 200, "labels"))
    assert found.nonzero().tolist() == [[0, 5, 0], [0, 127, 2]]


@on(sets=True)
@sized("seed", range(2), interpreted=range(3), cuda=range(4))
def test_random_problems(machine: Machine, seed: int) -> None:
    draw = random.Random(seed)
    machine.set_order(seed)
    for _ in range(machine.pick(30, interpreted=15, shim=150, cuda=100)):
        compare(machine, random_case(draw))


@sized(
    "space",
    SPACES,
    interpreted=[(512,), (513,), (1024,), (1028,)],
    cuda=[(1,), (96, 65, 33), (96, 64, 48), (300_001,)],
)
@sized("mode", MODES, interpreted=["softmax", "labels"])
def test_sizes(machine: Machine, space: Sequence[int], mode: str) -> None:
    draw = random.Random(0)
    for classes in machine.pick((3,), interpreted=(1, 4, 5), cuda=(5,)):
        labels = random_labels((2, *space), classes, torch.int16, draw)
        values = random_values((2, classes, *space), torch.float32, draw, strange=False)
        for first in machine.pick((0, 2, 9), interpreted=(0, 1, 9), cuda=(1,)):
            if mode == "labels":
                compare(machine, Case(labels, None, classes, mode, 1, first))
                continue
            compare(machine, Case(values, labels, classes, mode, 1, first))
            if machine.family != "interpreted":
                compare(machine, Case(values, None, classes, mode, None, first))
                compare(machine, Case(values, labels, classes, mode, None, first))


@sized("classes", CLASSES, interpreted=[17], cuda=[*CLASSES, 105])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_softmax_of_any_number_of_classes(
    machine: Machine, dtype: torch.dtype, classes: int
) -> None:
    draw = random.Random(classes)
    for space in machine.pick([(5, 7), (8, 8)], interpreted=[(5, 7)], cuda=[(17, 33), (16, 64)]):
        for strange in (False, True):
            values = random_values((2, classes, *space), dtype, draw, strange=strange)
            layouts = machine.pick(("contiguous",), cuda=("contiguous", "channels_last"))
            for layout in layouts:
                compare(machine, Case(lay_out(values, layout), None, classes, "softmax"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes_and_layouts(machine: Machine, dtype: torch.dtype, layout: str) -> None:
    draw = random.Random(0)
    size = machine.pick((3, 4, 8), cuda=(9, 17, 48))
    labels = lay_out(random_labels((2, *size), 5, dtype, draw), layout)
    values = lay_out(random_values((2, 5, *size), dtype, draw, strange=True), layout)
    for ignored in (None, 1, -1, 2**40):
        compare(machine, Case(labels, None, 5, "labels", ignored))
        compare(machine, Case(values, labels, 5, "values", ignored))
        if dtype in FLOATING and (ignored == 1 or machine.family != "interpreted"):
            compare(machine, Case(values, labels, 5, "softmax", ignored))
            compare(machine, Case(values, labels, 5, "sigmoid", ignored))
    if machine.family != "interpreted":
        x = random_values((2, 5, *size), torch.float32, draw, strange=False)
        for ignored in (None, 1, -1, 2**40):
            compare(machine, Case(x, labels, 5, "softmax", ignored))
        if dtype in FLOATING:
            compare(machine, Case(lay_out(x.to(dtype), layout), labels, 5, "softmax"))


@sized("offset", [1, 2, 3, 4, 8, 16], interpreted=[1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_rows_that_are_not_aligned(machine: Machine, dtype: torch.dtype, offset: int) -> None:
    """Where vectors can be loaded, and where they cannot: UBSan and a GPU refuse those."""
    draw = random.Random(0)
    for values_at, labels_at in ((offset, 0), (0, offset)):
        memory = torch.empty(2 * 3 * 64 + values_at, dtype=dtype)
        values = memory[values_at:].view(2, 3, 64)
        values.copy_(random_values(values.shape, dtype, draw, strange=False))
        near = torch.empty(2 * 64 + labels_at, dtype=torch.int16)
        labels = near[labels_at:].view(2, 64).copy_(random_labels((2, 64), 3, torch.int16, draw))
        compare(machine, Case(values, labels, 3, "softmax", 1))
        compare(machine, Case(labels, None, 3, "labels", 1))
    wide = random_values((2, 3, 64 + offset), dtype, draw, strange=False)
    compare(machine, Case(wide[..., :64], None, 3, "softmax"))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_infinity_and_nan(machine: Machine, dtype: torch.dtype) -> None:
    case = not_finite(dtype)
    compare(machine, case)
    for mode in ("sigmoid", "values"):
        compare(machine, Case(case.values, None, 3, mode))
    one = case.values.flatten()[None, None]
    found = run(machine, Case(one, None, 1, "softmax"))
    assert torch.equal(found, one.isfinite())


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_next_to_one_half(machine: Machine, dtype: torch.dtype) -> None:
    compare(machine, near_one_half(dtype))


@on("reference", "native", "interpreted", "shim")  # a device has to hold what lies between
@pytest.mark.parametrize("mode", MODES)
def test_offsets_past_2_to_the_31(machine: Machine, mode: str) -> None:
    compare(machine, far_apart(mode, torch.uint8 if mode == "labels" else torch.float16))


@pytest.mark.parametrize("mode", ["softmax", "labels"])
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0, 5)], ids=str)
def test_empty(machine: Machine, mode: str, shape: tuple[int, ...]) -> None:
    size = shape[:1] + shape[2:] if mode == "labels" else shape
    assert run(machine, Case(torch.zeros(size), None, 3, mode)).shape == shape


@begins_in("test")
@on("native", "interpreted")
def test_opcheck(machine: Machine) -> None:
    x, labels = logits(3, (4, 5)), torch.randint(0, 3, (2, 4, 5))
    operator = torch.ops.segloss_fast.region_masks
    torch.library.opcheck(operator, (x, labels, 3, "softmax", 1, 0, machine.impl))
    torch.library.opcheck(operator, (labels, None, 3, "labels", None, 1, machine.impl))


def test_a_kernel_that_is_missing_is_no_error() -> None:
    """The losses' other primitives say what is missing; here others serve."""
    x, labels = logits(3, (4, 5)), torch.randint(0, 3, (2, 4, 5))
    wanted = prediction_masks(x, labels, activation="softmax", impl="reference")
    device = x.device
    for impl in ("auto", "native", "triton"):
        assert torch.equal(prediction_masks(x, labels, activation="softmax", impl=impl), wanted)
        runs = impl != "auto" and kernels.why_not(impl, device) is None
        assert kernels.choose(impl, device) == (impl if runs else kernels.choose("auto", device))
    with segloss_fast.use_impl("reference"):
        assert kernels.choose("auto", device) == "reference"
    with pytest.raises(ValueError, match="impl must be one of"):
        kernels.choose("gpu", device)


def test_the_choice_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """C++ first, then Triton, then PyTorch."""
    device, missing = torch.device("cuda"), set[str]()
    monkeypatch.setattr(
        kernels, "why_not", lambda impl, device: "not here" if impl in missing else None
    )
    expected = {"auto": "native", "native": "native", "triton": "triton", "reference": "reference"}
    assert {impl: kernels.choose(impl, device) for impl in expected} == expected
    missing.add("native")
    assert [kernels.choose(impl, device) for impl in expected] == ["triton"] * 3 + ["reference"]
    missing.add("triton")
    assert {kernels.choose(impl, device) for impl in expected} == {"reference"}
