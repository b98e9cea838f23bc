"""The drop-in classes and their peers, as bench_compat.py compares them.

A drop-in is constructed by the same function as its peer, from the module that it is given, so the
options of both are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from benchmarks.cases.contenders import LEVELS
from benchmarks.cases.inputs import Tensors, blob_labels, logits
from benchmarks.cases.lovasz import smp_losses

PEERS = {"monai": "MONAI", "smp": "segmentation-models-pytorch", "kornia": "kornia"}
SOFTMAX: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
CLASSES = 4

Loss = Callable[..., Tensor]


def on_labels(loss: Loss, x: Tensors, y: Tensor) -> Tensor:
    """Call the loss with labels ``[B, 1, *S]``."""
    return loss(x[0], y)


def on_indices(loss: Loss, x: Tensors, y: Tensor) -> Tensor:
    """Call the loss with labels ``[B, *S]``."""
    return loss(x[0], y[:, 0])


def on_masks(loss: Loss, x: Tensors, y: Tensor) -> Tensor:
    """Call the loss with values ``[B, C, *S]``."""
    return loss(x[0], y)


def on_levels(loss: Loss, x: Tensors, y: Tensor) -> Tensor:
    """Call the loss with a list of levels; MONAI resizes targets of floats only."""
    return loss(list(x), y)


def on_masked(loss: Loss, x: Tensors, y: Tensor, mask: Tensor) -> Tensor:
    """Call the loss with labels and a mask ``[B, 1, *S]``."""
    return loss(x[0], y, mask)


def target_first(loss: Loss, x: Tensors, y: Tensor) -> Tensor:
    """Call the loss with values ``[B, C, *S]``, and them first."""
    return loss(y, x[0])


@dataclass(frozen=True)
class DropIn:
    """A class that has a drop-in.

    Attributes:
        peer: One of PEERS.
        name: Of the class.
        make: Constructs it from a module, for so many dimensions.
        call: Calls it with a tuple of inputs, a target and perhaps a mask.
        classes: Of the input.
        probabilities: Whether the input is in [0, 1].
        images: Whether the peer takes two dimensions only.
        volumes: Whether the class is for three dimensions only.
        widens: Whether the peer takes float64.
    """

    peer: str
    name: str
    make: Callable[[Any, int], Loss]
    call: Callable[..., Tensor] = on_labels
    classes: int = CLASSES
    probabilities: bool = False
    images: bool = False
    volumes: bool = False
    widens: bool = True

    def shape(self, batch: int, side: int, rank: int) -> tuple[int, ...] | None:
        """Return the shape of an input with such sides, None if the class does not take it."""
        if self.volumes and rank != 3:
            return None
        if self.images and rank == 3:
            return (batch, self.classes, side * side, side)
        return (batch, self.classes, *[side] * rank)

    def inputs(self, shape: Sequence[int]) -> Tensors:
        """Return leaves: one, or one per level of deep supervision."""
        levels = LEVELS if self.call is on_levels else 1
        shapes = [
            (*shape[:2], *(max(1, side >> level) for side in shape[2:])) for level in range(levels)
        ]
        leaves = [logits(blob_labels(each), self.classes, "random") for each in shapes]
        if self.probabilities:
            leaves = [leaf.softmax(1) if self.classes > 1 else leaf.sigmoid() for leaf in leaves]
        return tuple(leaf.requires_grad_() for leaf in leaves)

    def targets(self, shape: Sequence[int]) -> Tensors:
        """Return the target, and a mask of every second slice if the call takes one."""
        labels = blob_labels(shape)
        if self.call is on_levels:
            return (labels.float(),)
        if self.call is on_masked:
            mask = torch.zeros(labels.shape)
            mask[:, :, ::2] = 1
            return labels.float(), mask
        if self.call not in (on_masks, target_first):
            return (labels,)
        if self.classes > 1:
            labels = one_hot(labels[:, 0], self.classes).movedim(-1, 1)
        return (labels.float().contiguous(),)


def ours(case: DropIn, rank: int) -> Loss:
    """Return the drop-in."""
    return case.make(import_module(f"segloss_fast.compat.{case.peer}"), rank)


def theirs(case: DropIn, rank: int) -> Loss:
    """Return the peer."""
    if case.peer == "smp":
        return case.make(smp_losses(), rank)
    if case.name in PARTS:
        return case.make(import_module("monai.losses.unified_focal_loss"), rank)
    return case.make(import_module(f"{case.peer}.losses"), rank)


def double(loss: Loss) -> Loss:
    """Return the loss with its buffers in float64."""
    return loss.double() if isinstance(loss, nn.Module) else loss


PARTS = ("AsymmetricFocalLoss", "AsymmetricFocalTverskyLoss")


def _plain(peer: str, name: str, *, call: Any = on_labels, **options: Any) -> DropIn:  # noqa: ANN401
    """Return a class that is constructed with these options."""
    about = {key: options.pop(key) for key in _ABOUT if key in options}
    return DropIn(peer, name, lambda m, rank: getattr(m, name)(**options), call, **about)


_ABOUT = ("classes", "probabilities", "images", "volumes", "widens")
_BINARY: dict[str, Any] = {"classes": 1, "call": on_masks}

MONAI = [
    *(
        _plain("monai", name, **SOFTMAX)
        for name in (
            "DiceLoss",
            "GeneralizedDiceLoss",
            "DiceCELoss",
            "DiceFocalLoss",
            "GeneralizedDiceFocalLoss",
            "TverskyLoss",
            "HausdorffDTLoss",
            "LogHausdorffDTLoss",
            "BoundaryLoss",
            "MCCLoss",
            "SoftclDiceLoss",
            "SoftDiceclDiceLoss",
        )
    ),
    _plain("monai", "MaskedDiceLoss", call=on_masked, **SOFTMAX),
    _plain("monai", "FocalLoss", to_onehot_y=True),
    _plain("monai", "AsymmetricUnifiedFocalLoss", to_onehot_y=True, classes=2, probabilities=True),
    *(_plain("monai", name, to_onehot_y=True, classes=2, probabilities=True) for name in PARTS),
    DropIn(
        "monai",
        "GeneralizedWassersteinDiceLoss",
        lambda m, rank: m.GeneralizedWassersteinDiceLoss(1 - torch.eye(CLASSES).numpy()),
        on_indices,
    ),
    DropIn("monai", "NACLLoss", lambda m, rank: m.NACLLoss(CLASSES, rank), on_indices),
    DropIn(
        "monai",
        "DeepSupervisionLoss",
        lambda m, rank: m.DeepSupervisionLoss(m.DiceCELoss(**SOFTMAX)),
        on_levels,
    ),
    DropIn("monai", "MaskedLoss", lambda m, rank: m.MaskedLoss(m.DiceLoss(**SOFTMAX)), on_masked),
    DropIn(
        "monai",
        "MultiScaleLoss",
        lambda m, rank: m.MultiScaleLoss(m.DiceLoss(sigmoid=True), scales=[0, 1]),
        target_first,
    ),
]
SMP = [
    *(
        _plain("smp", name, mode="multiclass", call=on_indices)
        for name in ("DiceLoss", "JaccardLoss", "TverskyLoss", "FocalLoss")
    ),
    _plain("smp", "LovaszLoss", mode="multiclass", call=on_indices, widens=False),
    _plain("smp", "MCCLoss", probabilities=True, **_BINARY),
    _plain("smp", "SoftBCEWithLogitsLoss", call=on_masks),
    _plain("smp", "SoftCrossEntropyLoss", smooth_factor=0.1, call=on_indices),
]
KORNIA = [
    _plain("kornia", "DiceLoss", call=on_indices, images=True),
    _plain("kornia", "TverskyLoss", alpha=0.5, beta=0.5, call=on_indices, images=True),
    _plain("kornia", "FocalLoss", alpha=0.5, reduction="mean", call=on_indices),
    _plain(
        "kornia", "BinaryFocalLossWithLogits", alpha=0.25, gamma=2.0, reduction="mean", **_BINARY
    ),
    _plain("kornia", "LovaszSoftmaxLoss", call=on_indices, images=True),
    _plain("kornia", "LovaszHingeLoss", call=on_indices, classes=1, images=True),
    _plain("kornia", "HausdorffERLoss", probabilities=True, images=True),
    _plain("kornia", "HausdorffERLoss3D", probabilities=True, volumes=True),
]
DROPINS = [*MONAI, *SMP, *KORNIA]
