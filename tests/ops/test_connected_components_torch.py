"""connected_components inside torch: errors, operator contract, compilers, transforms, memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast import connected_components, use_impl
from segloss_fast.ops.connected_components.op import kernels
from tests.helpers import peak_allocation
from tests.machines import Machine, on
from tests.suite.tiers import begins_in

publicly = on("reference", "native")  # the shim has operators only
MASK = torch.ones(1, 2, 4, 4)
LABELS = torch.ones(2, 4, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        ([[1]], {}, TypeError, "labels must be a tensor, got list"),
        (
            MASK.to(torch.complex64),
            {},
            TypeError,
            "labels must have one of .*, got torch.complex64",
        ),
        (MASK[0, 0], {}, ValueError, r"labels must be \[B, C, \*S\] .* got shape \[4, 4\]"),
        (MASK[None, None], {}, ValueError, r"one to three spatial dimensions, got shape \[1, 1, 1"),
        (MASK, {"connectivity": None}, TypeError, "connectivity must be a str .* got NoneType"),
        (MASK, {"connectivity": True}, TypeError, "connectivity must be a str .* got bool"),
        (MASK, {"connectivity": "edges"}, ValueError, "2 spatial axes, one of 'faces', 'full', 4"),
        (MASK, {"connectivity": 26}, ValueError, "one of 'faces', 'full', 4, 8, got 26"),
        (MASK[..., None], {"connectivity": 8}, ValueError, "'edges', 'full', 6, 18, 26, got 8"),
        (MASK[..., 0], {"connectivity": 4}, ValueError, "1 spatial axes, one of .* 2, got 4"),
        (MASK, {"by_value": 1}, TypeError, "by_value must be True or False, got 1"),
        (
            MASK,
            {"by_value": True},
            TypeError,
            "labels must have one of .* uint64, got torch.float32",
        ),
        (
            LABELS[:, None, None, None],
            {"by_value": True},
            ValueError,
            r"\[B, \*S\] or \[B, 1, \*S\]",
        ),
        (LABELS[0, 0], {"by_value": True}, ValueError, r"by value, .* got shape \[4\]"),
        (MASK, {"ignore_index": 1.0}, TypeError, "ignore_index must be an int or None, got float"),
        (MASK, {"impl": "fast"}, ValueError, "impl must be one of auto, .* got 'fast'"),
        (MASK, {"impl": "triton"}, RuntimeError, "connected_components has no triton kernels"),
        (torch.ones(()).expand(1, 1, 2**16, 2**15), {}, ValueError, r"less than 2\^31 voxels"),
    ],
)
def test_errors(
    labels: Tensor, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        connected_components(labels, **options)


def test_by_value_takes_labels_with_and_without_a_channel() -> None:
    labels = torch.randint(0, 3, (2, 1, 5, 6, 7))
    expected = connected_components(labels, by_value=True).labels
    assert torch.equal(connected_components(labels[:, 0], by_value=True).labels, expected)
    line = torch.tensor([[1, 1, 2]])
    assert connected_components(line, by_value=True).labels.shape == (1, 1, 3)
    assert connected_components(line[:, None], by_value=True).labels.shape == (1, 1, 3)


@publicly
def test_opcheck(machine: Machine) -> None:
    operator = torch.ops.segloss_fast.connected_components
    mask = torch.rand(2, 3, 4, 5) < 0.4
    torch.library.opcheck(operator, (mask, 2, False, None, [0, 1], machine.impl))
    torch.library.opcheck(operator, (mask.float(), 1, False, 1, [0, 1], machine.impl))
    labels = torch.randint(0, 3, (2, 1, 4, 5, 6))
    torch.library.opcheck(operator, (labels, 2, True, 1, [0, 1, 2], machine.impl))


@pytest.mark.torch_compile
@publicly
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_compiles_into_one_graph(machine: Machine, layout: str) -> None:
    torch._dynamo.reset()

    def run(mask: Tensor) -> tuple[Tensor, Tensor]:
        found = connected_components(mask > 0.7, connectivity="faces", impl=machine.impl)
        return found.labels * 2, found.count + 1

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for size in ((2, 1, 5, 6, 7), (2, 1, 5, 9, 70)):
        x = torch.rand(size)
        x = x.transpose(2, 4) if layout == "transposed" else x
        for found, expected in zip(compiled(x), run(x), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.torch_compile
@publicly
@begins_in("all")
def test_compiles_by_value_where_sizes_may_depend_on_data(machine: Machine) -> None:
    torch._dynamo.reset()

    def run(labels: Tensor) -> tuple[Tensor, Tensor]:
        found = connected_components(labels, by_value=True, impl=machine.impl)
        assert found.value is not None
        return found.labels, found.value * 3

    labels = torch.randint(0, 4, (2, 9, 11))
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        found = torch.compile(run, fullgraph=True, backend="aot_eager")(labels)
    for one, other in zip(found, run(labels), strict=True):
        assert torch.equal(one, other)


@publicly
def test_vmap_and_grad_of_functorch(machine: Machine) -> None:
    masks = torch.rand(3, 2, 1, 8, 9) < 0.4

    def count(mask: Tensor) -> Tensor:
        return connected_components(mask, impl=machine.impl).labels

    expected = torch.stack([count(mask) for mask in masks])
    assert torch.equal(torch.func.vmap(count)(masks), expected)
    assert torch.equal(torch.func.vmap(count, in_dims=1)(masks.movedim(0, 1)), expected)

    def loss(x: Tensor) -> Tensor:
        return (x * connected_components(x > 0.5, impl=machine.impl).labels).sum()

    x = torch.rand(1, 1, 8, 9)
    expected = connected_components(x > 0.5, impl=machine.impl).labels
    assert torch.equal(torch.func.grad(loss)(x), expected.float())


@on("native")
@pytest.mark.parametrize("density", [0.001, 0.5])
def test_memory_is_little_beside_the_labels(machine: Machine, density: float) -> None:
    """Bits of the voxels, and 8 bytes a run: at the most, half as many runs as voxels."""
    torch.manual_seed(0)
    mask = torch.rand(1, 1, 64, 64, 128) < density
    runs = int((mask & ~torch.nn.functional.pad(mask, (1, 0))[..., :-1]).sum())
    peak = peak_allocation(lambda: connected_components(mask, impl=machine.impl))
    assert peak <= 4 * mask.numel() + mask.numel() / 8 + 8 * runs + 4 * 64 * 64 + 20_000


def test_the_choice_for_what_works_inside_others() -> None:
    """Of kernels that the primitive has not, that of "auto" or the reference; never an error."""
    cpu = torch.device("cpu")
    assert kernels.choose("triton", cpu) == kernels.choose("auto", cpu)
    assert kernels.choose("auto", torch.device("meta")) == "reference"
    with use_impl("reference"):
        assert connected_components(MASK).count.tolist() == [[1, 1]]
