"""MONAI's losses and their drop-ins, constructed alike, and what they can be called with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from segloss_fast.compat import monai as compat
from segloss_fast.compat.monai._names import MODULE_OF, original

THEIRS = SimpleNamespace(**{name: original(name) for name in MODULE_OF})


@dataclass(frozen=True)
class Loss:
    """How a loss of MONAI is constructed and called.

    Attributes:
        options: Keywords.
        call: What it is called with, a function of tensors by name.
        weighted: Further keywords, such that it has buffers, if it can have any.
        scripts: Whether MONAI's class can be compiled by TorchScript.
    """

    options: Mapping[str, Any]
    call: tuple[str, ...] = ("x", "labels")
    weighted: Mapping[str, Any] = field(default_factory=dict)
    scripts: bool = True


HEAD = {"to_onehot_y": True, "softmax": True}
WEIGHT = {"weight": torch.tensor([1.0, 2.0, 0.5])}
MATRIX = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.5], [1.0, 0.5, 0.0]])
UNIFIED = Loss({"to_onehot_y": True}, ("p2", "labels2"), scripts=False)
LOSSES = {
    "DiceLoss": Loss(HEAD, weighted=WEIGHT),
    "MaskedDiceLoss": Loss({"softmax": True}, ("x", "hot", "mask"), WEIGHT, scripts=False),
    "GeneralizedDiceLoss": Loss(HEAD),
    "GeneralizedWassersteinDiceLoss": Loss({"dist_matrix": MATRIX}),
    "DiceCELoss": Loss(HEAD, weighted=WEIGHT),
    "DiceFocalLoss": Loss(HEAD, weighted=WEIGHT),
    "GeneralizedDiceFocalLoss": Loss(HEAD, weighted=WEIGHT),
    "TverskyLoss": Loss({**HEAD, "alpha": 0.3}),
    "FocalLoss": Loss({"to_onehot_y": True, "use_softmax": True}, weighted=WEIGHT),
    "AsymmetricFocalLoss": UNIFIED,
    "AsymmetricFocalTverskyLoss": UNIFIED,
    "AsymmetricUnifiedFocalLoss": UNIFIED,
    "HausdorffDTLoss": Loss(HEAD, scripts=False),
    "LogHausdorffDTLoss": Loss(HEAD, scripts=False),
    "BoundaryLoss": Loss(HEAD, scripts=False),
    "MCCLoss": Loss(HEAD),
    "SoftclDiceLoss": Loss(HEAD, scripts=False),
    "SoftDiceclDiceLoss": Loss(HEAD, scripts=False),
    "NACLLoss": Loss({"classes": 3, "dim": 2}, ("x", "indices"), scripts=False),
    "DeepSupervisionLoss": Loss({"weight_mode": "two"}, weighted=WEIGHT),
    "MaskedLoss": Loss({}, ("x", "labels", "mask"), WEIGHT),
    "MultiScaleLoss": Loss({"scales": None}, ("labels", "x"), WEIGHT),
}
_WRAPPERS = ("DeepSupervisionLoss", "MaskedLoss", "MultiScaleLoss")


def build(
    name: str,
    *,
    ours: bool,
    weighted: bool = False,
    kind: Any = None,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    """Return a loss, of a subclass if one is given; a wrapper's is a DiceLoss of its package."""
    package: Any = compat if ours else THEIRS
    kind = kind or getattr(package, name)
    loss = LOSSES[name]
    weights = loss.weighted if weighted else {}
    if name in _WRAPPERS:
        return kind(package.DiceLoss(**HEAD, **weights), **loss.options)
    return kind(**loss.options, **weights)


def arguments(name: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return what the loss is called with; the prediction is a leaf that requires grad."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 6, 5, generator=generator)
    indices = torch.randint(3, (2, 6, 5), generator=generator)
    labels = indices[:, None].to(dtype)
    known = {
        "x": x.to(dtype).requires_grad_(),
        "p2": x[:, :2].softmax(1).to(dtype).requires_grad_(),
        "labels": labels,
        "indices": indices,
        "labels2": labels.clamp(max=1),
        "hot": torch.nn.functional.one_hot(indices, 3).movedim(-1, 1).to(dtype),
        "mask": torch.randint(2, (2, 1, 6, 5), generator=generator).to(dtype),
    }
    return [known[each] for each in LOSSES[name].call]
