"""sync: on several ranks the loss and, after DDP's mean, the gradient of one process."""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from filelock import FileLock
from torch import Tensor

import segloss_fast as sf
from segloss_fast.losses import __all__ as LOSS_NAMES
from tests.helpers import IMPLS, assert_close, gradient, relative_l2
from tests.losses import sync_disagreements
from tests.losses.ranks import Results
from tests.losses.sync_cases import AROUND, ITEMS, NOT_OVER_VOXELS, RANKS, SIZE, Case, cases
from tests.losses.sync_sums import PARTS, STEPS, SUMS, run_sum, train
from tests.records import LOSSES, LOVASZ_LOSSES
from tests.suite.tiers import begins_in, few

# Of every kind of collective one: sums; counts, too; histograms; sums of other shapes; the largest.
FIRST = (
    *("DiceCELoss", "TopKLoss", "LovaszSoftmaxLoss", "GeneralizedWassersteinDiceLoss"),
    *("StructuralSimilarityLoss", "BalancedCrossEntropyLoss"),
)
# Without native kernels the ranks tell each other the same.
ALL = set(LOSS_NAMES) - {"DeepSupervisionLoss", "WeightedSum"}
NAMES = sorted(ALL if "native" in IMPLS else FIRST)
by_ranks = begins_in("test")  # which must be started


def _call(case: Case, place: int, rank: int, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    ways = [group, group.group_name, *([True, "auto"] if group.size() == RANKS else [])]
    return case.run(rank, sync=ways[place % len(ways)])


def _tasks() -> dict[str, list[Any]]:
    """Return all that the ranks do, by what it is for."""
    found: dict[str, list[Any]] = {}
    for name, of_loss in cases(set(NAMES)).items():
        calls = [functools.partial(_call, case, place) for place, case in enumerate(of_loss)]
        found[name] = [(len(c.parts), call) for c, call in zip(of_loss, calls, strict=True)]
    found["sums"] = [
        (RANKS, functools.partial(run_sum, name, parts)) for name in SUMS for parts in PARTS
    ]
    found["steps"] = [(len(parts), functools.partial(train, parts)) for parts in STEPS]
    found["disagreements"] = sync_disagreements.tasks(set(NAMES))
    return found


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each rank got, by one start of the processes for all workers of a run."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    done = folder / "ranks.pickle"
    with FileLock(folder / "ranks.lock"):
        if not done.exists():
            tasks = _tasks()
            done.write_bytes(pickle.dumps(Results.of(RANKS, tasks, folder)))
    results: Results = pickle.loads(done.read_bytes())
    return results


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads as the ranks have: more would wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@by_ranks
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", NAMES)
def test_ranks_give_the_whole(name: str, results: Results) -> None:
    of_loss = cases({name})[name]
    assert len(of_loss) == len(results[name]) >= 8
    for case, by_rank in zip(of_loss, results[name], strict=True):
        value, grad = case.run()
        tolerance = 1e-10 if case.dtype == torch.float64 else 1e-6
        whole, _ = case.whole()
        for rank, (result, _) in enumerate(by_rank):
            if isinstance(result, Exception):
                raise AssertionError(f"{case}, rank {rank}") from result
            assert result[0].dtype == value.dtype
            assert_close(result[0], value, tolerance, (case, rank))
            # DDP divides by the number of ranks, and adds the gradients of shared weights.
            difference = result[1] / len(case.parts) - case.share(grad, rank, whole)
            assert difference.norm() <= tolerance * grad.norm(), (case, rank)


def test_every_loss_was_split_in_every_way() -> None:
    for name, of_loss in cases(set(NAMES)).items():
        seen = {(case.axis, case.parts.count(0) > 0, len(case.parts)) for case in of_loss}
        looks_around = name in {module.__name__ for module in AROUND}
        axes = {axis for axis, _, _ in seen}
        assert axes == ({0} if looks_around else {0, 2, 3, 4}), name
        assert {empty for _, empty, _ in seen} == {False, True}
        assert {ranks for _, _, ranks in seen} == {2, 3}
        kinds = {case.kind for case in of_loss}
        assert {"ignored", "all_ignored", "dense"} <= kinds, name
        assert {case.dtype for case in of_loss} == {torch.float32, torch.float64}


@by_ranks
def test_a_step_under_ddp_is_that_of_one_process(results: Results) -> None:
    for place, parts in enumerate(STEPS):
        weights = train(parts)
        assert (weights - train(parts, learn=False)).norm() > 1e-3
        for result, _ in results["steps"][place]:
            if isinstance(result, Exception):
                raise AssertionError(f"{parts}") from result
            assert relative_l2(result, weights) < 1e-12


@by_ranks
@pytest.mark.parametrize("parts", PARTS, ids=str)
@pytest.mark.parametrize("name", SUMS)
def test_sums_of_losses_and_levels(name: str, parts: tuple[int, ...], results: Results) -> None:
    by_rank = results["sums"][list(SUMS).index(name) * len(PARTS) + PARTS.index(parts)]
    value, grad = run_sum(name)
    for rank, ((result, _), share) in enumerate(zip(by_rank, grad.split(parts), strict=True)):
        if isinstance(result, Exception):
            raise AssertionError(f"rank {rank}") from result
        assert_close(result[0], value, 1e-10)
        assert result[1].shape == share.shape
        if share.numel():
            assert relative_l2(result[1] / RANKS, share) < 1e-10


@by_ranks
def test_disagreement_is_an_error_on_every_rank(results: Results) -> None:
    expected = sync_disagreements.expected(set(NAMES))
    assert len(expected) == len(results["disagreements"])
    for (note, text), by_rank in zip(expected, results["disagreements"], strict=True):
        assert len(by_rank) in (2, 3)
        for result, seconds in by_rank:
            assert seconds < 10, note
            if text is None:  # the group still works, and the tensors say so
                assert result is True, (note, result)
                continue
            assert isinstance(result, ValueError), (note, result)
            assert "the ranks of sync must call the same loss alike" in str(result), note
            assert text in str(result), (note, str(result))


@pytest.mark.parametrize("record", LOSSES, ids=lambda record: record.name)
def test_items_that_ranks_cannot_pool(record: Any) -> None:  # noqa: ANN401
    per_item = record.region or record.module in NOT_OVER_VOXELS
    if per_item:
        with pytest.raises(
            ValueError, match=r"batch=True.*DistributedDataParallel averages.*shard"
        ):
            record.module(sync=True)
        with pytest.raises(
            ValueError, match=r"batch=True.*DistributedDataParallel averages.*shard"
        ):
            record.module(sync="auto")
        assert record.module(sync=True, batch=True).sync is True
    else:
        assert record.module(sync=True).shards is False
        with pytest.raises(ValueError, match="reduction 'none' with sync needs batch=True"):
            record.module(sync=True, reduction="none")
    if record.module in AROUND:
        with pytest.raises(ValueError, match="shards must be False for a loss that looks around"):
            record.module(sync=True, shards=True)
    else:
        assert record.module(sync=True, shards=True, reduction="none").shards is True


@pytest.mark.parametrize("module", [sf.BoundaryLoss, sf.DistancePenalizedCELoss])
def test_shards_have_the_field_of_the_whole(module: Any) -> None:  # noqa: ANN401
    x, target = torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]])
    with pytest.raises(ValueError, match="pass the rank's part of target_field"):
        module(sync="auto", shards=True)(x, target)
    assert module(sync="auto", shards=True)(x, target, None, torch.ones(1, 2, 4)) > 0


def test_lovasz_pools_what_ranks_have() -> None:
    for module, _ in LOVASZ_LOSSES.values():
        with pytest.raises(ValueError, match=r"sync needs per_image=False.*shards=True"):
            module(sync=True, per_image=True)
        assert module(sync=True, per_image=True, shards=True).per_image


def test_without_a_process_group() -> None:
    x, target = torch.randn(ITEMS, 3, *SIZE), torch.randint(0, 3, (ITEMS, *SIZE))
    for loss in (sf.DiceLoss, sf.StructuralSimilarityLoss):
        with pytest.raises(RuntimeError, match=r"torch\.distributed is not initialised"):
            loss(batch=True, sync=True)(x, target)
        # Off: the loss of one process.
        assert loss(batch=True, sync="auto")(x, target) == loss(batch=True)(x, target)
    small = sf.LovaszSoftmaxLoss(sync="auto")  # exact, as without sync
    assert small(x, target) == sf.LovaszSoftmaxLoss(method="sort")(x, target)


@pytest.fixture
def alone() -> Iterator[str]:
    """A process group of this process alone; its name."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    assert dist.group.WORLD is not None
    yield dist.group.WORLD.group_name
    dist.destroy_process_group()


@pytest.mark.torch_compile
@pytest.mark.parametrize("how", few(["DiceCELoss by name", *FIRST], test=2))
def test_compiles_into_one_graph(how: str, alone: str) -> None:
    name = how.removesuffix(" by name")
    x, target = torch.randn(2, 3, *SIZE), torch.randint(0, 3, (2, *SIZE))
    own = {} if name.startswith("Lovasz") else {"batch": True}
    loss = getattr(sf, name)(sync=dist.group.WORLD if name == how else alone, **own)
    compiled: Any = torch.compile(loss, fullgraph=True, backend="aot_eager")
    value, grad = gradient(lambda x: loss(x, target), x)
    other, other_grad = gradient(lambda x: compiled(x, target), x)
    torch._dynamo.reset()
    assert_close(other, value, 1e-6)
    assert relative_l2(other_grad, grad) < 1e-6


def test_second_derivatives(alone: str) -> None:
    x = torch.randn(1, 2, 2, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[0, 1]])
    for sync in (False, True):
        loss = sf.DiceLoss(batch=True, impl="reference", sync=sync)
        of_input = functools.partial(loss, target=target)
        assert torch.autograd.gradgradcheck(of_input, x)


def test_no_group_of_that_name(alone: str) -> None:
    x, target = torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]])
    with pytest.raises(RuntimeError, match="no_such_group"):
        sf.DiceLoss(batch=True, sync="no_such_group")(x, target)


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacfwd])
def test_transforms_of_torch_func_are_refused(alone: str, transform: Any) -> None:  # noqa: ANN401
    x, target = torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]])
    for loss in (sf.DiceLoss(batch=True, sync=alone), sf.LovaszSoftmaxLoss(sync=alone)):
        with pytest.raises(RuntimeError, match=r"transforms of torch\.func"):
            transform(functools.partial(loss, target=target))(x)


@pytest.mark.parametrize("target_shape", [(0, 4, 6), (0, 1, 4, 6), (0, 3, 4, 6)], ids=str)
@pytest.mark.parametrize("divisor", [2, 3], ids=str)
def test_levels_of_a_batch_without_items(target_shape: tuple[int, ...], divisor: int) -> None:
    """As a rank has it that shares an uneven batch with others."""
    x = torch.zeros(0, 3, 4, 6, requires_grad=True)
    small = torch.zeros(0, 3, 4 // divisor, 6 // divisor)
    target = torch.zeros(target_shape)
    loss = sf.DeepSupervisionLoss(sf.DiceCELoss())
    value = loss([x, small], target, torch.ones(0, 1, 4, 6))
    assert value == 0
    (grad,) = torch.autograd.grad(value, x)
    assert grad.shape == x.shape
