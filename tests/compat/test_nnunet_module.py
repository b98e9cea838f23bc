"""nnU-Net's losses as modules: state, wrong calls, torch.compile, several processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import segloss_fast
from segloss_fast.compat import nnunet
from tests.compat.nnunet_calls import peer
from tests.helpers import relative_l2
from tests.losses.ranks import together

pytestmark = pytest.mark.peers
# nnU-Net's TopK, and so ours, names the reduction as torch no longer does.
deprecated = pytest.mark.filterwarnings("ignore:size_average and reduce args:UserWarning")
DICE: dict[str, Any] = {"batch_dice": False, "do_bg": False, "smooth": 1e-5, "ddp": False}
SIDES = (16, 8, 4)


def both(name: str, *arguments: object, **options: object) -> tuple[nn.Module, nn.Module]:
    """Return the drop-in and nnU-Net's loss, made alike."""
    return getattr(nnunet, name)(*arguments, **options), peer(name)(*arguments, **options)


def levels(classes: int = 3, batch: int = 2) -> tuple[list[Tensor], list[Tensor]]:
    """Return outputs and int16 targets of three levels."""
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(batch, classes, s, s, s, generator=generator) for s in SIDES]
    targets = [torch.randint(classes, (batch, 1, s, s, s), generator=generator) for s in SIDES]
    return [x.requires_grad_() for x in outputs], [t.short() for t in targets]


@deprecated
def test_state_dictionaries_load_both_ways() -> None:
    weight = torch.tensor([0.5, 1.0, 2.0])
    for name, arguments in {
        "DC_and_CE_loss": ({**DICE}, {"weight": weight}),
        "DC_and_BCE_loss": ({"pos_weight": weight.view(3, 1, 1, 1)}, {**DICE}),
        "DC_and_topk_loss": ({**DICE}, {"weight": weight}),
    }.items():
        ours, theirs = both(name, *arguments)
        assert list(ours.state_dict()) == list(theirs.state_dict()) != []
        ours.load_state_dict(theirs.state_dict())
        theirs.load_state_dict(ours.state_dict())


@deprecated
@pytest.mark.parametrize("name", ["RobustCrossEntropyLoss", "TopKLoss"])
def test_cross_entropies_are_torch_s(name: str) -> None:
    assert isinstance(getattr(nnunet, name)(), nn.CrossEntropyLoss)


def x_of(*size: int) -> Tensor:
    return torch.zeros(size, requires_grad=True)


WRONG: dict[str, Callable[[Callable[[str], Any]], object]] = {
    "no weights": lambda of: of("DeepSupervisionWrapper")(nn.Identity()),
    "all weights 0": lambda of: of("DeepSupervisionWrapper")(nn.Identity(), [0.0, 0.0]),
    "no list": lambda of: of("DeepSupervisionWrapper")(nn.Identity(), [1.0])(x_of(1, 2, 4)),
    "too few weights": lambda of: of("DeepSupervisionWrapper")(
        of("RobustCrossEntropyLoss")(), [1.0]
    )([x_of(1, 2, 4)] * 2, [torch.zeros(1, 1, 4)] * 2),
    "ignored and one-hot": lambda of: of("DC_and_CE_loss")(
        {**DICE}, {}, ignore_label=2, dice_class=of("SoftDiceLoss")
    )(x_of(1, 2, 4), torch.zeros(1, 2, 4)),
    "several channels": lambda of: of("RobustCrossEntropyLoss")()(
        x_of(1, 2, 4), torch.zeros(1, 2, 4)
    ),
    "another size": lambda of: of("DC_and_CE_loss")({**DICE}, {})(
        x_of(1, 2, 4, 4), torch.zeros(1, 1, 5, 4)
    ),
    "no process group": lambda of: of("SoftDiceLoss")(batch_dice=True)(
        x_of(1, 2, 4), torch.zeros(1, 2, 4)
    ),
    "unknown option": lambda of: of("DC_and_CE_loss")({"squared": True}, {}),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_calls_raise_what_nnunet_raises(what: str) -> None:
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        WRONG[what](peer)
    with pytest.raises(Exception) as ours:  # noqa: PT011
        WRONG[what](lambda name: getattr(nnunet, name))
    if what != "another size":  # ValueError here, RuntimeError of torch's there
        assert isinstance(ours.value, theirs.type), (ours.value, theirs.value)
    assert str(ours.value)


def test_labels_out_of_range_are_an_error() -> None:
    loss = nnunet.DC_and_CE_loss({**DICE}, {})
    with pytest.raises(ValueError, match="got 4 other values, the first of which is 7"):
        loss(x_of(1, 2, 4), torch.full((1, 1, 4), 7, dtype=torch.int16))


def test_nothing_labelled_is_minus_one() -> None:
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    loss = nnunet.DC_and_CE_loss({**DICE}, {}, ignore_label=3)
    value = loss(x, torch.full((2, 1, 8, 8), 3, dtype=torch.int16))
    value.backward()
    assert value.item() == -1
    assert x.grad is not None
    assert not x.grad.any()


@pytest.mark.torch_compile
def test_dice_that_nnunet_compiles() -> None:
    """nnU-Net's trainer sets ``loss.dc = torch.compile(loss.dc)`` on CUDA.

    What comes after the graph is tried of each operator, in tests/ops.
    """
    loss = nnunet.DC_and_CE_loss({**DICE}, {}, dice_class=nnunet.MemoryEfficientSoftDiceLoss)
    wrapped = nnunet.DeepSupervisionWrapper(loss, [0.6, 0.4, 0.0])
    outputs, targets = levels()
    alone, fused = loss.dc(outputs[0], targets[0]), wrapped(outputs, targets)
    setattr(loss, "dc", torch.compile(loss.dc, fullgraph=True, backend="aot_eager"))  # noqa: B010
    assert loss.dc(outputs[0], targets[0]).item() == pytest.approx(alone.item(), rel=1e-6)
    assert wrapped(outputs, targets).item() == fused.item()
    mask = targets[0] != 1
    masked = loss.dc(outputs[0], targets[0] * mask, loss_mask=mask)
    expected = nnunet.SoftDiceLoss(nnunet.softmax_helper_dim1, **DICE)
    assert masked.item() == pytest.approx(
        expected(outputs[0], targets[0] * mask, mask).item(), rel=1e-6
    )


@pytest.mark.torch_compile
def test_all_levels_compile_to_one_graph() -> None:
    loss = nnunet.DC_and_CE_loss({**DICE}, {}, ignore_label=2)
    wrapped = nnunet.DeepSupervisionWrapper(loss, [0.6, 0.4, 0.0])
    outputs, targets = levels()
    compiled = torch.compile(wrapped, fullgraph=True, backend="aot_eager")
    value = compiled(outputs, targets)
    value.backward()
    grads = [x.grad for x in outputs[:2]]
    for x in outputs:
        x.grad = None
    expected = wrapped(outputs, targets)
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    for x, grad in zip(outputs, grads, strict=False):
        assert x.grad is not None
        assert grad is not None
        assert relative_l2(grad, x.grad) < 1e-6


def test_levels_share_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    from segloss_fast.compat.nnunet import _sums

    calls = []
    original = segloss_fast.region_sums_multi

    def counted(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        calls.append(len(arguments[0]))
        return original(*arguments, **options)

    monkeypatch.setattr(_sums, "region_sums_multi", counted)
    outputs, targets = levels()
    weights = [0.5, 0.5, 0.0]
    nnunet.DeepSupervisionWrapper(nnunet.DC_and_CE_loss({**DICE}, {}), weights)(outputs, targets)
    regions = [torch.rand(2, 4, s, s, s) > 0.5 for s in SIDES]
    loss = nnunet.DC_and_BCE_loss({}, {**DICE}, use_ignore_label=True)
    nnunet.DeepSupervisionWrapper(loss, weights)(outputs, regions)
    assert calls == [2, 2]


# Items on each rank, of which nnU-Net gives uneven numbers where they do not divide.
SHARES = (3, 1)
DDP = {"batch_dice": True, "do_bg": False, "smooth": 1e-5}


def share(rank: int, group: dist.ProcessGroup) -> tuple[float, list[Tensor]]:
    """Return a rank's loss and gradients of its share of a batch."""
    loss = nnunet.DC_and_CE_loss({**DDP, "ddp": True}, {}, weight_ce=0)
    outputs, targets = levels(batch=sum(SHARES))
    first = sum(SHARES[:rank])
    part = slice(first, first + SHARES[rank])
    mine = [x.detach()[part].requires_grad_() for x in outputs]
    wrapped = nnunet.DeepSupervisionWrapper(loss, [0.6, 0.3, 0.1])
    value = wrapped(mine, [t[part] for t in targets])
    value.backward()
    return value.item(), [x.grad for x in mine if x.grad is not None]


def test_processes_with_uneven_batches_give_the_whole_batch_s(tmp_path: Path) -> None:
    outputs, targets = levels(batch=sum(SHARES))
    whole = peer("DC_and_CE_loss")(
        {**DDP, "ddp": False}, {}, weight_ce=0, dice_class=peer("MemoryEfficientSoftDiceLoss")
    )
    value = peer("DeepSupervisionWrapper")(whole, [0.6, 0.3, 0.1])(outputs, targets)
    value.backward()
    (found,) = together(len(SHARES), [(len(SHARES), share)], tmp_path)
    first = 0
    for rank, (result, _) in enumerate(found):
        assert not isinstance(result, Exception), result
        assert result[0] == pytest.approx(value.item(), rel=1e-6)
        for x, grad in zip(outputs, result[1], strict=True):
            assert x.grad is not None
            # DDP divides by the number of processes.
            mine = x.grad[first : first + SHARES[rank]]
            assert relative_l2(grad / len(SHARES), mine) < 1e-5
        first += SHARES[rank]
