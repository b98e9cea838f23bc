"""Every loss where training has it: autocast, checkpoints, copies, exports, changes in between."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.utils.checkpoint import checkpoint

from tests import machines
from tests.conformance import LOSSES, LossRecord, problem
from tests.helpers import IMPLS, assert_close, gradient, peak_allocation, relative_l2
from tests.suite.tiers import begins_in, few

SIZE = (8, 9, 10)
# One loss of each set of primitives: what else compiles differs in formulas alone.
KINDS = list({record.primitives: record for record in reversed(LOSSES)}.values())
by_kind = pytest.mark.parametrize("record", KINDS, ids=lambda record: record.name)
NATIVELY = [("native", record) for record in LOSSES] if "native" in IMPLS else []
# Natively all losses, those of a kind first; without kernels torch itself does what is promised.
CASES = sorted(NATIVELY, key=lambda case: case[1] not in KINDS)
CASES += [("reference", record) for record in KINDS]
by_case = pytest.mark.parametrize(
    ("impl", "record"),
    [pytest.param(*tiered.values[0], marks=tiered.marks) for tiered in few(CASES, test=8)],
    ids=lambda value: getattr(value, "name", value),
)


class Model(nn.Module):
    """A network of one layer, and a loss of its logits."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.network = nn.Conv3d(1, 3, 1)
        self.loss = loss

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        value: Tensor = self.loss(self.network(image), target)
        return value


class Batch(NamedTuple):
    image: Tensor
    target: Tensor


def batch() -> Batch:
    """Return an image, and labels in blocks that erosions leave something of; some are ignored."""
    generator = torch.Generator().manual_seed(1)
    image = 2 * torch.randn(2, 1, *SIZE, generator=generator)
    target = torch.randint(0, 3, (2, 2, 2, 2), generator=generator)
    for axis in (1, 2, 3):
        target = target.repeat_interleave(5, axis)[:, : SIZE[0], : SIZE[1], : SIZE[2]]
    target[:, 3, :, 2:4] = 255
    return Batch(image, target)


def step(
    model: Model, of: Batch, forward: Callable[..., Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the loss of a step, and the gradient of the network's weight."""
    model.network.zero_grad()
    value = (forward or model)(*of)
    value.backward()
    grad = model.network.weight.grad
    assert grad is not None
    assert grad.abs().sum() > 0
    return value.detach(), grad.clone()


def assert_same(found: tuple[Tensor, Tensor], true: tuple[Tensor, Tensor]) -> None:
    assert all(torch.equal(*pair) for pair in zip(found, true, strict=True))


@by_case
def test_copies_checkpoints_and_repeats_have_the_same_bits(impl: str, record: LossRecord) -> None:
    model, of = Model(record.module(ignore_index=255, impl=impl)), batch()
    true = step(model, of)
    assert_same(step(model, of), true)
    assert_same(step(copy.deepcopy(model), of), true)
    assert_same(step(pickle.loads(pickle.dumps(model)), of), true)
    assert_same(step(model, of, lambda *o: checkpoint(model, *o, use_reentrant=False)), true)


@by_case
def test_nothing_is_read_that_was_not_written(impl: str, record: LossRecord) -> None:
    model, of = Model(record.module(ignore_index=255, impl=impl)), batch()
    true = step(model, of)
    with machines.new_tensors_are_nan():  # which refuses what is not deterministic, too
        assert_same(step(model, of), true)
        voxels = [of.image.flatten()[:1], of.target.flatten()[:1]]  # a batch of one voxel
        one = Batch(voxels[0].view(1, 1, 1, 1, 1), voxels[1].view(1, 1, 1, 1).clamp(max=2))
        value = model(*one)
    assert value.isfinite()


@pytest.mark.parametrize("record", few(LOSSES, test=3), ids=lambda record: record.name)
@pytest.mark.skipif("native" not in IMPLS, reason="the native module is not built")
def test_threads_and_instruction_sets_change_nothing_but_rounding(record: LossRecord) -> None:
    """Results are those of one thread, to the bit; of another instruction set, to rounding."""
    case = problem("ignore", (24, 25, 30), dtype=torch.float32)  # of several chunks
    loss = record.module(ignore_index=255, impl="native")

    def found(threads: int, capability: str) -> tuple[Tensor, Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with machines.instruction_set(capability):
                return gradient(lambda x: loss(x, case.target), case.input)
        finally:
            torch.set_num_threads(before)

    known: tuple[str, ...] = machines.INSTRUCTION_SETS
    known = known[: known.index(machines.best_instruction_set()) + 1]
    true = found(1, known[-1])
    for capability in known:
        value, grad = found(1, capability)
        assert_same(found(3, capability), (value, grad))
        assert_close(value, true[0], 1e-6)
        assert relative_l2(grad, true[1]) < 10 * record.float32


@by_case
@pytest.mark.parametrize("which", ["input", "target", "voxel_weight"])
def test_a_change_before_the_backward_pass_is_an_error(
    impl: str, record: LossRecord, which: str
) -> None:
    x = problem("labels", SIZE, dtype=torch.float32).input.requires_grad_()
    case = problem("weighted", SIZE, dtype=torch.float32)
    logits, target = x * 1, case.target.clone()
    weight = torch.ones(2, 1, *SIZE) if which == "voxel_weight" else None
    value = record.function(logits, target, weight, impl=impl)
    changed = {"input": logits, "target": target, "voxel_weight": weight}[which]
    assert changed is not None
    with torch.no_grad():
        changed.mul_(0)
    refused = None
    try:
        value.backward()
    except RuntimeError as error:
        refused = str(error)
    if refused is not None:
        assert "modified by an inplace operation" in refused
        return
    # What the backward pass does not need again may change: then the gradient is as without.
    assert x.grad is not None
    other = x.detach().requires_grad_()
    untouched = None if weight is None else torch.ones_like(weight)
    record.function(other, case.target, untouched, impl=impl).backward()
    assert other.grad is not None
    assert which != "input" or impl == "reference"
    assert torch.equal(x.grad, other.grad)


@by_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_mixed_precision_with_a_scaler(impl: str, record: LossRecord, dtype: torch.dtype) -> None:
    model, of = Model(record.module(ignore_index=255, impl=impl)), batch()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    with torch.autocast("cpu", dtype=dtype):
        logits = model.network(of.image)
        logits.retain_grad()
        found = model.loss(logits, of.target)
    assert logits.dtype == dtype
    assert found.dtype == torch.float32
    scaler.scale(found).backward()
    value, grad = gradient(lambda x: model.loss(x, of.target), logits.detach().float())
    assert_close(found.detach(), value, 2e-6)
    assert relative_l2(logits.grad.float() / scaler.get_scale(), grad) < 2.0**-8


# These keep a map of the volume, or some.
MAPS = {"HausdorffERLoss", "TopKLoss", "DiceTopKLoss", "SoftClDiceLoss", "SoftDiceClDiceLoss"}
MAPS.add("StructuralSimilarityLoss")
SUMS = [r for r in LOSSES if r.primitives == ("region_sums",) and r.name not in MAPS]


@pytest.mark.parametrize("record", few(SUMS, test=3), ids=lambda record: record.name)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.skipif("native" not in IMPLS, reason="the native module is not built")
def test_half_precision_is_read_without_a_copy(record: LossRecord, dtype: torch.dtype) -> None:
    case = problem("ignore", (48, 50, 49), dtype=dtype)
    x, loss = case.input.requires_grad_(), record.module(ignore_index=255, impl="native")

    def both() -> None:
        torch.autograd.grad(loss(x, case.target), x)

    own = x.numel() * x.element_size()  # the gradient
    assert own <= peak_allocation(both) < 1.05 * own + 2**18


@begins_in("all")
@by_kind
def test_exports_with_its_model(record: LossRecord) -> None:
    model, of = Model(record.module(ignore_index=255)), batch()
    exported: Any = torch.export.export(model, tuple(of)).module()
    true = step(model, of)
    value = exported(*of)
    (grad,) = torch.autograd.grad(value, [exported.network.weight])
    assert_close(value.detach(), true[0], 1e-6)
    assert relative_l2(grad, true[1]) < 1e-5


@pytest.mark.torch_compile
@begins_in("all")
@by_kind
def test_sizes_that_change_compile_twice_at_most(record: LossRecord) -> None:
    """Once for the first, once for any other: not once for each."""
    counter = CompileCounter()
    loss = record.module()
    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    for size in ((5, 6, 7), (6, 7, 8), (7, 9, 11), (11, 5, 9), (8, 8, 8)):
        case = problem("labels", size, dtype=torch.float32)
        assert_close(compiled(case.input, case.target), loss(case.input, case.target), 1e-6)
    torch._dynamo.reset()
    assert counter.frame_count <= 2
