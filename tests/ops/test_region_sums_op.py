"""region_sums inside torch: operator contract, layouts, threads, memory, compile, far offsets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from segloss_fast import region_sums
from segloss_fast._native import _C
from segloss_fast.ops.region_sums import TERMS
from tests.helpers import IMPLS, gradient, peak_allocation, relative_l2
from tests.suite.tiers import begins_in, few

by_impl = pytest.mark.parametrize("impl", IMPLS)
needs_native = pytest.mark.skipif(_C is None, reason="the native module is not built")


def inputs(
    *size: int, classes: int = 3, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, classes, *size), generator=generator).to(dtype)
    return x, torch.randint(0, classes, (2, *size), generator=generator)


@begins_in("test")
@needs_native
@pytest.mark.parametrize("kind", ["labels", "dense", "weighted"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed"])
def test_opcheck(kind: str, layout: str) -> None:
    x, target = inputs(3, 4, 5)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last_3d)
    if layout == "transposed":
        x = x.transpose(2, 3).contiguous().transpose(2, 3)
    weight = torch.rand(2, 1, 3, 4, 5) if kind == "weighted" else None
    if kind == "dense":
        target = torch.rand_like(x)
    arguments = (target, weight, ["tp", "nll", "focal"], "softmax", "sigmoid", 2.0, None, "native")
    operators = torch.ops.segloss_fast
    torch.library.opcheck(operators.region_sums, (x.requires_grad_(), *arguments))
    rows = torch.randn(3, 2, 3, dtype=torch.float64)
    torch.library.opcheck(operators.region_sums_backward, (rows, x.detach(), *arguments))


@by_impl
@pytest.mark.parametrize("what", ["input", "target", "labels", "weight"])
@pytest.mark.parametrize("layout", ["sliced", "transposed", "expanded", "channels_last"])
def test_any_strides(impl: str, what: str, layout: str) -> None:
    x, labels = inputs(4, 6, 10)
    tensors = {"input": x, "target": torch.rand_like(x), "weight": torch.rand_like(x)}
    if what == "labels":
        tensors["target"] = labels
    key = "target" if what == "labels" else what
    plain = tensors[key]
    if layout == "sliced":
        wide = torch.cat([plain, plain], -1)
        strided = torch.stack([wide, wide], -1)[..., ::2, 1]
        tensors[key] = wide[..., ::2]
        assert strided.shape == tensors[key].shape
        strided.copy_(tensors[key])
    elif layout == "transposed":
        strided = plain.transpose(-1, -3).contiguous().transpose(-1, -3)
    elif layout == "expanded":
        strided = plain[..., :1].expand_as(plain)
        tensors[key] = strided.contiguous()
    else:
        strided = plain.movedim(1, -1).contiguous().movedim(-1, 1)

    def run(values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return gradient(
            lambda x: (
                region_sums(
                    x,
                    values["target"],
                    terms=TERMS,
                    gamma=2,
                    voxel_weight=values["weight"],
                    impl=impl,
                ).rows
            ),
            values["input"],
        )

    rows, grad = run(tensors)
    other_rows, other_grad = run({**tensors, key: strided})
    torch.testing.assert_close(other_rows, rows, rtol=1e-6, atol=1e-6)
    assert relative_l2(other_grad, grad) < 1e-6


@by_impl
@pytest.mark.parametrize("what", ["input", "target", "weight"])
def test_offsets_past_2_to_the_31(impl: str, what: str) -> None:
    """Strides beyond 2^31 elements, over memory of which only the used pages exist."""
    far = 2**31 + 5
    x, _ = inputs(3, 5, classes=2)
    x = x[:1].half()
    tensors = {"input": x, "target": torch.rand_like(x), "weight": torch.rand_like(x)}
    storage = torch.empty(far + 15, dtype=torch.float16)
    strided = storage.as_strided((1, 2, 3, 5), (2 * far, far, 5, 1))
    strided.copy_(tensors[what])

    def run(values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return gradient(
            lambda x: (
                region_sums(x, values["target"], voxel_weight=values["weight"], impl=impl).rows
            ),
            values["input"],
        )

    rows, grad = run(tensors)
    other_rows, other_grad = run({**tensors, what: strided})
    torch.testing.assert_close(other_rows, rows)
    assert relative_l2(other_grad, grad) < 1e-3


@pytest.fixture
def capability() -> Iterator[None]:
    """Restore the CPU capability after the test."""
    assert _C is not None
    before = _C.cpu_capability()
    yield
    _C.set_cpu_capability(before)


@needs_native
@pytest.mark.usefixtures("capability")
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(level: str, dtype: torch.dtype) -> None:
    assert _C is not None
    try:
        _C.set_cpu_capability(level)
    except RuntimeError as error:
        pytest.skip(str(error))
    x, target = inputs(9, 7, 13, classes=5, dtype=dtype)
    for activation, ce_activation in [("softmax", "sigmoid"), ("sigmoid", "softmax")]:

        def rows(x: Tensor, impl: str, a: str = activation, c: str = ce_activation) -> Tensor:
            return region_sums(
                x, target, terms=TERMS, activation=a, ce_activation=c, gamma=1.5, impl=impl
            ).rows

        value, grad = gradient(lambda x: rows(x, "native"), x)
        true_value, true_grad = gradient(lambda x: rows(x, "reference"), x.double())
        compute = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        torch.testing.assert_close(value, true_value, rtol=10 * compute, atol=10 * compute)
        assert relative_l2(grad, true_grad) < max(0.5 * torch.finfo(dtype).eps, 5 * compute)


@needs_native
def test_bits_do_not_depend_on_threads_or_on_the_run() -> None:
    x, target = inputs(61, 67, 29)
    before = torch.get_num_threads()

    def run() -> tuple[Tensor, Tensor]:
        return gradient(
            lambda x: region_sums(x, target, terms=TERMS, gamma=2, impl="native").rows, x
        )

    rows, grad = run()
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            for _ in range(2):
                other_rows, other_grad = run()
                assert torch.equal(other_rows, rows), threads
                assert torch.equal(other_grad, grad), threads
    finally:
        torch.set_num_threads(before)


@needs_native
def test_every_output_is_written() -> None:
    """In deterministic mode torch fills fresh memory with NaN."""
    x, target = inputs(5, 17, 33)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        rows, grad = gradient(
            lambda x: region_sums(x, target, terms=TERMS, gamma=2, impl="native").rows, x
        )
    finally:
        torch.use_deterministic_algorithms(False)
    assert rows.isfinite().all()
    assert grad.isfinite().all()


@by_impl
def test_no_voxels_and_no_items(impl: str) -> None:
    for shape in [(0, 3, 4), (2, 3, 0), (2, 3, 4, 0, 5)]:
        x = torch.randn(shape, requires_grad=True)
        labels = torch.zeros((shape[0], *shape[2:]), dtype=torch.int64)
        rows = region_sums(x, labels, terms=TERMS, gamma=2, impl=impl).rows
        assert rows.shape == (len(TERMS), *shape[:2])
        assert (rows == 0).all()
        rows.sum().backward()
        assert x.grad is not None
        assert x.grad.shape == shape


@needs_native
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("classes", "side"), [(4, 64), (105, 32)])
def test_memory_is_independent_of_the_volume(
    layout: torch.memory_format, dtype: torch.dtype, classes: int, side: int
) -> None:
    x, target = inputs(side, side, side, classes=classes, dtype=dtype)
    x = x.to(memory_format=layout).requires_grad_()
    size = x.numel() * x.element_size()

    def forward() -> Tensor:
        terms = ("tp", "pred", "target", "nll", "focal", "focal_neg")
        sums = region_sums(x, target, ce_activation="sigmoid", terms=terms, gamma=2, impl="native")
        return sums.rows.sum()

    assert peak_allocation(forward) < 2**20 + 0.01 * size
    above_gradient = peak_allocation(lambda: forward().backward()) - size
    assert above_gradient < 2**20 + 0.01 * size


@pytest.mark.torch_compile
@by_impl
@pytest.mark.parametrize("backend", few(["aot_eager", "inductor"], test=1))
def test_compiles_into_one_graph(impl: str, backend: str) -> None:
    if (backend, impl) == ("inductor", "reference"):
        pytest.skip("a graph of torch's operators, which are not ours to test")
    x, target = inputs(5, 6, 7)

    def loss(x: Tensor) -> Tensor:
        sums = region_sums(2 * x, target, terms=["tp", "nll", "pred"], impl=impl)
        return (sums.tp / sums.pred + sums.nll).sum()

    value, grad = gradient(loss, x)
    compiled_value, compiled_grad = gradient(
        torch.compile(loss, fullgraph=True, backend=backend), x
    )
    torch._dynamo.reset()
    torch.testing.assert_close(compiled_value, value)
    torch.testing.assert_close(compiled_grad, grad)


@by_impl
def test_autocast_does_not_change_it(impl: str) -> None:
    x, target = inputs(5, 6, 7, dtype=torch.bfloat16)
    rows, grad = gradient(lambda x: region_sums(x, target, terms=["tp", "nll"], impl=impl).rows, x)
    with torch.autocast("cpu", torch.bfloat16):
        other = gradient(lambda x: region_sums(x, target, terms=["tp", "nll"], impl=impl).rows, x)
    assert rows.dtype == torch.float64
    assert grad.dtype == torch.bfloat16
    assert torch.equal(other[0], rows)
    assert torch.equal(other[1], grad)


@by_impl
def test_sums_of_chunks_add_up(impl: str) -> None:
    x, target = inputs(6, 8, 5)
    whole = region_sums(x, target, impl=impl)
    parts = [region_sums(x[:, :, i : i + 3], target[:, i : i + 3], impl=impl) for i in (0, 3)]
    torch.testing.assert_close((parts[0] + parts[1]).rows, whole.rows, rtol=1e-6, atol=1e-6)
