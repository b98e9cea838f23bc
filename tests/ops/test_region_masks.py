"""region_masks against its definition by torch's softmax, and every instruction set against it."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

import segloss_fast
from segloss_fast.ops.region_masks import prediction_masks, target_masks
from segloss_fast.ops.region_masks.op import kernels
from tests.helpers import impls
from tests.suite.tiers import begins_in

by_impl = pytest.mark.parametrize("impl", impls("region_masks"))
SIZES = [(1,), (513,), (5, 7), (3, 20, 33)]


def logits(classes: int, size: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    torch.manual_seed(classes)
    return (3 * torch.randn(2, classes, *size)).to(dtype)


@by_impl
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_prediction(impl: str, size: tuple[int, ...], classes: int, dtype: torch.dtype) -> None:
    x = logits(classes, size, dtype)
    labels = torch.randint(0, max(classes, 2), (2, *size))
    labels[torch.rand(labels.shape) < 0.3] = 9
    counted = (labels != 9)[:, None]
    exact = x.double()
    expected = {"sigmoid": exact > 0, "probabilities": exact > 0.5}
    if classes > 1:
        expected["softmax"] = exact.softmax(1) > 0.5
    for activation, inside in expected.items():
        for first in (0, 1):
            wanted = inside.clone()
            wanted[:, :first] = False
            found = prediction_masks(x, labels, activation=activation, first=first, impl=impl)
            assert found.dtype == torch.bool
            assert found.is_contiguous()
            assert torch.equal(found, wanted), activation
            found = prediction_masks(
                x, labels, activation=activation, first=first, ignore_index=9, impl=impl
            )
            assert torch.equal(found, wanted & counted), activation


@by_impl
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float32]
)
def test_labels(impl: str, size: tuple[int, ...], dtype: torch.dtype) -> None:
    labels = torch.randint(0, 5, (2, *size)).to(dtype)
    for classes in (1, 2, 5):
        c = torch.arange(classes).view(1, -1, *[1] * len(size))
        wanted = (labels == 1)[:, None] if classes == 1 else labels[:, None] == c
        found = target_masks(labels, classes, dense=False, impl=impl)
        assert torch.equal(found, wanted)
        found = target_masks(labels, classes, dense=False, ignore_index=1, first=1, impl=impl)
        wanted = wanted & (labels != 1)[:, None]
        wanted[:, 0] = False
        assert torch.equal(found, wanted)


@by_impl
def test_labels_of_a_dtype_that_does_not_hold_all_classes(impl: str) -> None:
    """A label of -128 is none of them: it is not class 128."""
    labels = torch.tensor([[5, -128, 127, -1]], dtype=torch.int8)
    found = target_masks(labels, 200, dense=False, impl=impl)
    assert found.nonzero().tolist() == [[0, 5, 0], [0, 127, 2]]


@by_impl
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_values(impl: str, dtype: torch.dtype) -> None:
    values = torch.rand(2, 3, 5, 9).mul(2 if dtype != torch.float32 else 1).to(dtype)
    found = target_masks(values, 3, dense=True, impl=impl)
    assert torch.equal(found, values > 0.5)


@by_impl
def test_layouts(impl: str) -> None:
    x = logits(4, (6, 5, 7))
    labels = torch.randint(0, 4, (2, 6, 5, 7))
    wanted = prediction_masks(x, labels, activation="softmax", ignore_index=2, impl=impl)
    for other in (
        x.to(memory_format=torch.channels_last_3d),
        x.transpose(2, 4).contiguous().transpose(2, 4),
        torch.stack([x, x], -1)[..., 0],
    ):
        turned = labels.transpose(1, 3).contiguous().transpose(1, 3)
        found = prediction_masks(other, turned, activation="softmax", ignore_index=2, impl=impl)
        assert torch.equal(found, wanted)


@by_impl
def test_what_is_not_finite_is_as_in_torch(impl: str) -> None:
    inf, nan = float("inf"), float("nan")
    rows = [(0, nan, 9), (inf, 0, 0), (-inf, -inf, 3), (-inf,) * 3, (1, 1, -inf), (nan,) * 3]
    x = torch.tensor(rows).T[None]  # [1, 3, 6]
    labels = torch.zeros(1, len(rows), dtype=torch.int64)
    found = prediction_masks(x, labels, activation="softmax", impl=impl)
    assert torch.equal(found, x.softmax(1) > 0.5)
    for activation, inside in {"sigmoid": x > 0, "probabilities": x > 0.5}.items():
        found = prediction_masks(x, labels, activation=activation, impl=impl)
        assert torch.equal(found, inside)


@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_instruction_sets(cpu_capability: ModuleType, capability: str) -> None:
    try:
        cpu_capability.set_cpu_capability(capability)
    except RuntimeError as error:
        pytest.skip(str(error))
    x = logits(5, (3, 20, 33))
    labels = torch.randint(0, 5, (2, 3, 20, 33))
    found = prediction_masks(x, labels, activation="softmax", ignore_index=1, impl="native")
    wanted = prediction_masks(x, labels, activation="softmax", ignore_index=1, impl="reference")
    assert torch.equal(found, wanted)
    assert torch.equal(
        target_masks(labels, 5, dense=False, impl="native"),
        target_masks(labels, 5, dense=False, impl="reference"),
    )


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


@begins_in("test")
@pytest.mark.skipif("native" not in impls("region_masks"), reason="the kernels are not built")
def test_opcheck() -> None:
    x, labels = logits(3, (4, 5)), torch.randint(0, 3, (2, 4, 5))
    operator = torch.ops.segloss_fast.region_masks
    torch.library.opcheck(operator, (x, labels, 3, "softmax", 1, 0, "native"))
    torch.library.opcheck(operator, (labels, None, 3, "labels", None, 1, "native"))


def test_empty() -> None:
    for shape in [(0, 3, 4), (2, 3, 0, 5)]:
        x, labels = torch.empty(shape), torch.empty(shape[0], *shape[2:])
        assert prediction_masks(x, labels, activation="softmax").shape == shape
        assert target_masks(labels, 3, dense=False).shape == shape
