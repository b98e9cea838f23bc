"""What the benchmarks over region_sums compare: cases, our losses, and their peers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

import segloss_fast
from benchmarks.cases.eager_losses import EAGER_FORMULAS, STAND_INS
from benchmarks.cases.eager_structural import EAGER_STRUCTURES
from benchmarks.cases.eager_topk import EAGER_TOPK
from benchmarks.cases.inputs import LossFunction, Tensors, blob_labels, logits

LOSSES = {
    "Dice": segloss_fast.DiceLoss,
    "DiceCE": segloss_fast.DiceCELoss,
    "DiceFocal": segloss_fast.DiceFocalLoss,
    "Tversky": segloss_fast.TverskyLoss,
    "CE": segloss_fast.CrossEntropyLoss,
    "HausdorffDT": segloss_fast.HausdorffDTLoss,
    "Boundary": segloss_fast.BoundaryLoss,
    "FocalTversky": segloss_fast.FocalTverskyLoss,
    "LogCoshDice": segloss_fast.LogCoshDiceLoss,
    "SensitivitySpecificity": segloss_fast.SensitivitySpecificityLoss,
    "GeneralizedDice": segloss_fast.GeneralizedDiceLoss,
    "GeneralizedDiceFocal": segloss_fast.GeneralizedDiceFocalLoss,
    "MCC": segloss_fast.MCCLoss,
    "BalancedCE": segloss_fast.BalancedCrossEntropyLoss,
    "Combo": segloss_fast.ComboLoss,
    "ExpLog": segloss_fast.ExpLogLoss,
    "UnifiedFocal": segloss_fast.UnifiedFocalLoss,
    "TopK": segloss_fast.TopKLoss,
    "DiceTopK": segloss_fast.DiceTopKLoss,
    "WassersteinDice": segloss_fast.GeneralizedWassersteinDiceLoss,
    "SoftClDice": segloss_fast.SoftClDiceLoss,
    "SoftDiceClDice": segloss_fast.SoftDiceClDiceLoss,
    "StructuralSimilarity": segloss_fast.StructuralSimilarityLoss,
}
DEFINITION = "eager PyTorch"  # the peer of losses that are compared with their definition
# Without a peer of their own: the definition in eager PyTorch is timed beside them.
EAGER = {**EAGER_FORMULAS, **EAGER_TOPK, **EAGER_STRUCTURES}
SIGMOID = ("BalancedCE", "Combo")  # also of several classes
# Their gradients jump where rounding changes which of two neighbours is smaller: ours cannot be
# nearer to float64 than the definition in float32.
KINKED = ("SoftClDice", "SoftDiceClDice")
OVER_FIELDS = ("HausdorffDT", "Boundary")  # their truth is MONAI in float64
HAS_MONAI = find_spec("monai") is not None  # a machine may have a device and no MONAI
HALF = (torch.float16, torch.bfloat16)
OURS = ("native", "triton", "reference")
LEVELS = 5  # of deep supervision: each has half the size of the one before, and half its weight


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        loss: One of LOSSES; or DiceCE over five levels of deep supervision: "DeepSupervision" by
            our module, "DeepDiceCE" by one formula for all levels.
        shape: ``[B, C, *S]``, of the largest level; C = 1 with sigmoid, more with softmax.
        dtype: Of the input.
        logits: ``"random"`` or ``"saturated"``.
        contenders: Those to compare.
        device: ``"cpu"`` or ``"cuda"``.
        labels: Their dtype.
        channels_last: Whether the classes of a voxel lie side by side.
    """

    loss: str
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    logits: str = "random"
    contenders: tuple[str, ...] = ("native", "reference", "eager")
    device: str = "cpu"
    labels: torch.dtype = torch.int64
    channels_last: bool = False

    @property
    def name(self) -> str:
        """The case as an identifier, like ``DiceCE-1x4x128x128x128-float32-random``."""
        parts = [self.loss, "x".join(map(str, self.shape)), str(self.dtype)[6:], self.logits]
        parts += ["channels_last"] if self.channels_last else []
        return "-".join(parts if self.labels == torch.int64 else [*parts, str(self.labels)[6:]])

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of all levels."""
        levels = LEVELS if self.loss.startswith("Deep") else 1
        return [
            (*self.shape[:2], *(max(1, side >> level) for side in self.shape[2:]))
            for level in range(levels)
        ]


def cube(loss: str, classes: int, side: int, *contenders: str, **options: object) -> Case:
    """Return a case of one cubic volume."""
    shape = (1, classes, side, side, side)
    return Case(loss, shape, contenders=contenders, **options)  # type: ignore[arg-type]


def make_inputs(case: Case) -> tuple[Tensors, Tensors]:
    """Return logits and labels of every level, on the device."""
    labels = [blob_labels(shape) for shape in case.shapes]
    inputs = [logits(level, case.shape[1], case.logits) for level in labels]
    inputs = [x.to(case.device, case.dtype) for x in inputs]
    if case.channels_last:
        inputs = [x.movedim(1, -1).contiguous().movedim(-1, 1) for x in inputs]
    return (
        tuple(x.requires_grad_() for x in inputs),
        tuple(level.to(case.device, case.labels) for level in labels),
    )


def on_one(loss: Callable[[Tensor, Tensor], Tensor]) -> LossFunction:
    """Return the loss as a function of tuples of inputs and targets, one each."""
    return lambda inputs, targets: loss(inputs[0], targets[0])


def on_levels(loss: Callable[[Tensor, Tensor], Tensor]) -> LossFunction:
    """Return the weighted mean of a loss over levels of deep supervision."""

    def deep(inputs: Tensors, targets: Tensors) -> Tensor:
        weights = _level_weights(len(inputs))
        pairs = zip(inputs, targets, weights, strict=True)
        return torch.stack([w * loss(x, t) for x, t, w in pairs]).sum()

    return deep


def _level_weights(levels: int) -> list[float]:
    total = sum(0.5**level for level in range(levels))
    return [0.5**level / total for level in range(levels)]


def _ours(case: Case, impl: str) -> LossFunction:
    if case.loss == "DeepDiceCE":
        return _deep_dice_ce(impl)
    if case.loss == "DeepSupervision":
        return segloss_fast.DeepSupervisionLoss(segloss_fast.DiceCELoss(impl=impl))
    sigmoid = case.shape[1] == 1 or case.loss in SIGMOID
    keywords = {"activation": "sigmoid" if sigmoid else "softmax", "impl": impl}
    if case.loss == "DiceFocal":
        keywords["ce_activation"] = "sigmoid"  # as MONAI, also under softmax
    loss: Callable[[Tensor, Tensor], Tensor] = LOSSES[case.loss](**keywords)
    return on_one(loss)


def _deep_dice_ce(impl: str) -> LossFunction:
    """Return DiceCE over levels, all from one call of region_sums_multi."""

    def loss(inputs: Tensors, targets: Tensors) -> Tensor:
        terms = ("tp", "pred", "target", "nll")
        levels = segloss_fast.region_sums_multi(inputs, targets, terms=terms, impl=impl)
        rows = torch.stack([level.rows for level in levels])  # [L, K, B, C]
        tp, pred, target, nll = rows.unbind(1)
        dice = 1 - (2 * tp + 1e-5) / (pred + target + 1e-5)
        values = dice.mean((1, 2)) + nll.sum((1, 2)) / target.sum((1, 2))
        weights = torch.stack([torch.full_like(values[0], w) for w in _level_weights(len(inputs))])
        return (weights * values).sum().float()

    return loss


def _eager(case: Case) -> LossFunction:
    if case.loss == "CE":
        return on_one(lambda input, target: cross_entropy(input, target[:, 0]))
    if case.loss in EAGER:
        return on_one(EAGER[case.loss])
    name = "DiceCE" if case.loss.startswith("Deep") else case.loss
    spread = on_levels if case.loss.startswith("Deep") else on_one
    if not HAS_MONAI:
        return spread(_widened(case, STAND_INS[name]))
    from monai import losses as monai

    options = {"sigmoid": True} if case.shape[1] == 1 else {"softmax": True, "to_onehot_y": True}
    if case.loss in OVER_FIELDS:
        fields = getattr(monai, f"{name}Loss")(include_background=True, **options)
        # Of an integer target, MONAI truncates the distances.
        return on_one(lambda input, target: fields(input, target.to(input.dtype)))
    return spread(_widened(case, getattr(monai, f"{name}Loss")(**options)))


def _widened(
    case: Case, loss: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of half-precision input in float32, as autocast computes it."""
    if case.dtype in HALF:
        return lambda input, target: loss(input.float(), target)
    return loss


def _dice_ce_formula(input: Tensor, target: Tensor) -> Tensor:
    axes = list(range(2, input.dim()))
    p = input.softmax(1)
    t = one_hot(target[:, 0].long(), input.shape[1]).movedim(-1, 1).to(p.dtype)
    dice = (2 * (p * t).sum(axes) + 1e-5) / (p.sum(axes) + t.sum(axes) + 1e-5)
    return 1 - dice.mean() + cross_entropy(input, target[:, 0].long())


def contender(case: Case, name: str) -> LossFunction:
    """Return the loss of a contender."""
    if name in OURS:
        return _ours(case, name)
    if name == "eager":
        return _eager(case)
    # Cases share MONAI's code objects, of which dynamo compiles only so many versions.
    torch.compiler.reset()
    if name == "compiled":
        return torch.compile(_eager(case), dynamic=False)
    formula = on_levels if case.loss.startswith("Deep") else on_one
    return torch.compile(formula(_dice_ce_formula), dynamic=False, fullgraph=True)


def peer(case: Case) -> str:
    """Return whose the contender "eager" is."""
    if case.loss == "CE":
        return "torch"
    return "MONAI" if HAS_MONAI and case.loss not in EAGER else DEFINITION


def truth(case: Case) -> LossFunction:
    """Return what answers are judged by, on the same input in float64."""
    return contender(case, "eager" if case.loss in OVER_FIELDS else "reference")


def contenders(case: Case) -> list[str]:
    """Return the contenders that run here."""
    ours = {b.impl for b in segloss_fast.backends() if b.available and b.device == case.device}
    compiler = shutil.which("g++") or shutil.which("clang++")

    def runs(name: str) -> bool:
        if name in OURS:
            return name in ours
        if case.loss in OVER_FIELDS and not HAS_MONAI:
            return False
        return name == "eager" or compiler is not None

    return [name for name in case.contenders if runs(name)]
