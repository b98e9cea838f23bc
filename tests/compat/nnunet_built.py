"""Losses that nnU-Net's trainers build: of the page's example, of configurations not trained."""

from __future__ import annotations

import copy
import json
import runpy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segloss_fast.compat.nnunet import TRAINERS
from tests import oracles, oracles_formulas
from tests.compat.nnunet_training import (
    NAME,
    OTHERS,
    Both,
    hausdorff_of_levels,
    level_weights,
    loss_of,
    seed,
    trainer_of,
)

IGNORED = 3
CONFIGURATIONS = ("2d", "3d_cascade_fullres")


def page() -> dict[str, Any]:
    """Train each trainer of the page a step or two; return their losses, and what these should be.

    Labels, with some ignored.
    """
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    found: dict[str, Any] = {}
    trainer = trainer_of("nnUNetTrainerHausdorff5", iterations=1)
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    with torch.no_grad():
        output = trainer.network(batch["data"])
        stock = nnUNetTrainer._build_loss(trainer)(output, batch["target"])
    added = hausdorff_of_levels(trainer, output, batch["target"])
    found["hausdorff"] = {
        "bases": [base.__name__ for base in type(trainer).__mro__],
        "loss": loss_of(trainer, batch),
        "expected": float(stock) + 1e-3 * added,
        "share": 1e-3 * added,
    }
    trainer.train_step(batch)
    mine = trainer_of("nnUNetTrainerMine", iterations=2)
    with torch.no_grad():
        output = mine.network(batch["data"])
    values = [loss_of(mine, batch)]
    for _ in range(2):
        mine.train_step(batch)
    found["mine"] = {
        "bases": [base.__name__ for base in type(mine).__mro__],
        "losses": [*values, loss_of(mine, batch)],
        "expected": _generalized_dice_and_focal(output, batch["target"]),
    }
    return found


def _generalized_dice_and_focal(outputs: list[Tensor], targets: list[Tensor]) -> float:
    """Return the loss that the page's second trainer names, by the definitions, in float64."""
    total = 0.0
    for weight, x, t in zip(level_weights(len(outputs)), outputs, targets, strict=True):
        options = {"ignore_index": IGNORED, "gamma": 3.0}
        overlap = oracles.volume(x, t, None, {**options, "include_background": False})
        voxel = oracles.volume(x, t, None, options)
        loss = oracles_formulas.generalized_dice(overlap) + 0.5 * oracles.focal(voxel)
        total += weight * float(loss)
    return total


def built(folder: Path) -> dict[str, Any]:
    """Compare nnU-Net's loss with ours, of images and of a cascade's second stage.

    Both pool the batch's Dice. Outputs and targets are random.
    """
    preprocessed = folder / "preprocessed" / "Dataset001_Test"
    plans, labels = (
        json.loads((preprocessed / f"{name}.json").read_text())
        for name in ("nnUNetPlans", "dataset")
    )
    add_cascade(plans["configurations"])
    # As nnU-Net does, which takes a third of a second for each to find it by its name.
    classes = runpy.run_path(str(TRAINERS / "segloss_fast_trainers.py"))

    def trainer(name: str, configuration: str) -> Any:  # noqa: ANN401
        said = {**copy.deepcopy(plans), "continue_training": False}
        return classes[name](said, configuration, 0, labels, device=torch.device("cpu"))

    found = {}
    for configuration in CONFIGURATIONS:
        stock = trainer("nnUNetTrainer", configuration)
        seed()
        outputs, targets = problem(stock)
        both = Both(stock._build_loss(), trainer(NAME, configuration)._build_loss())
        both(outputs, targets)
        others = [trainer(NAME + name, configuration)._build_loss() for name in OTHERS]
        found[configuration] = {
            "patch": list(stock.configuration_manager.patch_size),
            "cascaded": stock.is_cascaded,
            "batch_dice": stock.configuration_manager.batch_dice,
            "levels": len(outputs),
            "apart": both.steps,
            "others": [gradient(loss, outputs, targets) for loss in others],
        }
    return found


def add_cascade(configurations: dict[str, Any]) -> None:
    """Write into the plans what nnU-Net plans for larger images."""
    full = configurations["3d_fullres"]
    configurations["3d_lowres"] = {**full, "next_stage": "3d_cascade_fullres"}
    configurations["3d_cascade_fullres"] = {
        "inherits_from": "3d_fullres",
        "previous_stage": "3d_lowres",
        "batch_dice": True,
    }


def problem(trainer: Any) -> tuple[list[Tensor], list[Tensor]]:  # noqa: ANN401
    """Return random outputs and targets of all levels, as nnU-Net has them."""
    labels = trainer.label_manager
    ignoring = labels.ignore_label is not None
    outputs, targets = [], []
    for scale in trainer._get_deep_supervision_scales():
        patch = trainer.configuration_manager.patch_size
        size = [round(side * by) for side, by in zip(patch, scale, strict=True)]
        outputs.append(torch.randn(3, labels.num_segmentation_heads, *size))
        if labels.has_regions:
            targets.append(torch.rand(3, labels.num_segmentation_heads + ignoring, *size) < 0.3)
        else:
            highest = labels.num_segmentation_heads + ignoring
            targets.append(torch.randint(0, highest, (3, 1, *size), dtype=torch.int16))
    return outputs, targets


def gradient(loss: torch.nn.Module, outputs: list[Tensor], targets: list[Tensor]) -> list[float]:
    """Return the loss, and the norm of the gradient of the largest output."""
    leaves = [x.detach().requires_grad_() for x in outputs]
    value = loss(leaves, targets)
    value.backward()
    assert leaves[0].grad is not None
    return [float(value), float(leaves[0].grad.norm())]
