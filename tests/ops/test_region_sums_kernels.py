"""Which kernels serve a call of region_sums: the rule, and what it says where there are none."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import segloss_fast
from segloss_fast import _native, region_sums
from segloss_fast._native import CUDA_MISSING
from segloss_fast.ops._voxels.labels import check_labels_on_device
from segloss_fast.ops.region_sums import reference
from segloss_fast.ops.region_sums.contract import TILE_CLASSES, most_classes, preference
from segloss_fast.ops.region_sums.op import kernels
from segloss_fast.ops.region_sums.options import TERMS, Options

CPU, CUDA, META = torch.device("cpu"), torch.device("cuda"), torch.device("meta")


@pytest.fixture
def fake() -> Iterator[None]:
    """Tensors without memory, which may claim to lie on a GPU."""
    with FakeTensorMode():
        yield


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("classes", "channels_last", "first"),
    [(1, False, "triton"), (32, False, "triton"), (33, False, "native"), (4, True, "native")],
)
def test_auto_on_a_gpu(classes: int, channels_last: bool, first: str) -> None:
    x = torch.empty(2, classes, 4, 6, 8, device="cuda")
    if channels_last:
        x = x.to(memory_format=torch.channels_last_3d)
    order = preference([x])
    assert order[0] == first
    assert sorted(order) == ["native", "triton"]
    assert preference([x, x])[0] == "native"  # one launch for all


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("terms", "classes", "first"),
    [
        (("tp", "pred", "target", "nll"), 128, "triton"),
        (("target", "nll"), 105, "triton"),
        (("tp", "pred", "target", "nll"), 129, "native"),
        (("tp", "pred", "target", "pred_sq"), 105, "native"),
        (("tp", "target"), 105, "native"),
    ],
)
def test_auto_on_a_gpu_with_many_classes(terms: tuple[str, ...], classes: int, first: str) -> None:
    """Triton, as far as its kernel for class indices goes."""
    x = torch.empty(1, classes, 6, 8, device="cuda")
    labels = torch.empty(1, 6, 8, device="cuda", dtype=torch.uint8)
    options = Options(terms, "softmax", "softmax", 0.0, None)

    def order(target: Tensor, *, weighted: bool = False, options: Options = options) -> str:
        return preference([x], most_classes(x, target, weighted, options))[0]

    assert order(labels) == first
    assert order(torch.empty_like(x)) == order(labels, weighted=True) == "native"
    assert order(labels, options=replace(options, ce_activation="sigmoid")) == "native"


def test_many_classes_are_those_of_the_kernel() -> None:
    triton_labels = pytest.importorskip("segloss_fast.ops.region_sums.triton_labels")
    from segloss_fast.ops.region_sums.triton_terms import Formula, bits

    x, labels = torch.empty(1, 105, 2), torch.empty(1, 2, dtype=torch.uint8)
    for terms in itertools.chain(*(itertools.combinations(TERMS, n) for n in (1, 2, 3))):
        options = Options(terms, "softmax", "softmax", 2.0, None)
        served = triton_labels.serves(105, Formula(bits(*terms), 0, 0, True, True), 0)
        assert (most_classes(x, labels, False, options) == TILE_CLASSES) == served, terms


@pytest.mark.usefixtures("fake")
def test_auto_on_a_gpu_with_one_voxel_or_one_class() -> None:
    """Strides that mean nothing do not make a tensor channels-last."""
    assert preference([torch.empty(2, 1, 1, 1, 1, device="cuda")])[0] == "triton"
    assert preference([torch.empty(2, 4, 1, 1, 1, device="cuda")])[0] == "triton"


def test_auto_on_the_cpu_never_interprets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert preference([torch.empty(1, 2, 3)]) == ("native",)


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(_native, "TRITON_MISSING", None)
    assert kernels.why_not("triton", CUDA) is None
    for device, dtype, text in [
        (CPU, torch.float32, "only under TRITON_INTERPRET=1"),
        (META, torch.float32, "no Triton kernels for meta tensors"),
        (CUDA, torch.float64, "no float64"),
    ]:
        assert text in str(kernels.why_not("triton", device, dtype))
    monkeypatch.setattr(_native, "TRITON_MISSING", "Triton is not installed")
    assert kernels.why_not("triton", CUDA) == "Triton is not installed"
    assert kernels.why_not("native", CUDA) == CUDA_MISSING
    assert "no native kernels for meta tensors" in str(kernels.why_not("native", META))


def test_what_triton_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    found = dict.fromkeys(("3.6.0", "3.10.1+git1", "4.0"))
    monkeypatch.setattr(_native, "find_spec", lambda name: SimpleNamespace(origin=name))
    for release in (*found, "3.5.1"):
        monkeypatch.setattr(_native, "version", lambda name, release=release: release)
        found[release] = _native._find_triton()
    assert found.pop("3.5.1") == "Triton 3.6 or later is needed, this is 3.5.1"
    assert set(found.values()) == {None}
    monkeypatch.setattr(_native, "find_spec", lambda name: None)
    assert "pip install 'triton>=3.6'" in str(_native._find_triton())


def test_gpus_that_triton_kernels_do_not_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "TRITON_MISSING", None)
    monkeypatch.setattr(_native, "_capability", lambda index: (8, 0))
    assert kernels.why_not("triton", CUDA) is None
    monkeypatch.setattr(_native, "_capability", lambda index: (7, 5))
    assert "need compute capability 8.0, this GPU has 7.5" in str(kernels.why_not("triton", CUDA))
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert "instructions of NVIDIA's GPUs" in str(kernels.why_not("triton", CUDA))


def test_debug_mode_refuses_the_capture_of_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu:
        device = CUDA

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="leave debug mode before capturing"):
        check_labels_on_device(OnGpu(), 3)  # type: ignore[arg-type]


def test_rows_of_several_inputs_are_joined() -> None:
    rows = torch.arange(6, dtype=torch.float64).view(2, 3, 1)
    good, bad = torch.tensor([0.0, 0.0]), torch.tensor([2.0, 7.0])

    def join(*labels: Tensor) -> tuple[Tensor, list[float]]:
        joined, invalid = reference.join([(rows, label.double()) for label in labels])
        return joined, invalid.tolist()

    joined, invalid = join(good, good)
    assert torch.equal(joined, torch.cat([rows, rows], 1))
    assert invalid == [0, 0]
    joined, invalid = join(good, bad, torch.tensor([1.0, 9.0]))
    assert joined.isnan().all()
    assert invalid == [3, 7]


@pytest.mark.torch_compile
def test_a_reference_without_a_host_to_raise_returns_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: compiled code cannot raise either."""
    x, labels = torch.randn(1, 2, 3), torch.tensor([[0, 1, 5]])
    compiled = torch.compile(
        lambda x: region_sums(x, labels, impl="reference").rows, backend="eager", fullgraph=True
    )
    assert compiled(x).isnan().all()
    torch._dynamo.reset()
    with pytest.raises(ValueError, match="got 1 other"), segloss_fast.debug(True):
        region_sums(x, labels, impl="reference")
