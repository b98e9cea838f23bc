"""Plans, trains and predicts with nnU-Net, in its environment; prints what a test asks for as JSON.

``python -m tests.compat.nnunet_program FOLDER KIND TASK...``, where KIND is of nnunet_dataset.KINDS
and TASK the name of a function below. The data set is made in FOLDER the first time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.compat import nnunet_built
from tests.compat.nnunet_dataset import prepare
from tests.compat.nnunet_training import (
    NAME,
    OTHERS,
    Both,
    hausdorff_of_levels,
    loss_of,
    seed,
    train,
    trainer_of,
)
from tests.suite.following import following

FOLLOWED = ("built", "errors", "plain_levels")  # by coverage: every loss is built and called


def compare(folder: Path) -> dict[str, Any]:
    """Train with the stock trainer and with ours, and compare both at every step."""
    stock = trainer_of("nnUNetTrainer", iterations=4)
    both = stock.loss = Both(stock.loss, trainer_of(NAME, iterations=4).loss)
    seed()
    curve = train(stock)
    ours = trainer_of(NAME, iterations=4)
    found = {"stock": curve, "ours": train(ours), "steps": both.steps}
    targets = next(ours.dataloader_train)["target"]
    found["targets"] = [[list(t.shape), str(t.dtype)] for t in targets]
    found["loss"] = type(getattr(ours.loss, "loss", None)).__name__
    return found


def predict(folder: Path) -> dict[str, Any]:
    """Predict with the checkpoint of our trainer, which nnU-Net finds by the name in it."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        use_mirroring=False, device=torch.device("cpu"), perform_everything_on_device=False
    )
    model = folder / "results" / "Dataset001_Test" / f"{NAME}__nnUNetPlans__3d_fullres"
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    images = folder / "raw" / "Dataset001_Test" / "imagesTr"
    out = folder / "predicted"
    out.mkdir(exist_ok=True)
    predictor.predict_from_files_sequential(
        [[str(images / "case_0_0000.nii.gz")]], [str(out / "case_0")], False, True, None
    )
    import SimpleITK

    labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(out / "case_0.nii.gz")))
    return {"shape": list(labels.shape), "labels": np.unique(labels).tolist()}


def others(folder: Path) -> dict[str, Any]:
    """Train with each of the other trainers; return the loss of one batch before and after."""
    found: dict[str, Any] = {}
    batch: Any = None
    for name in OTHERS:
        trainer = trainer_of(NAME + name, iterations=5)
        if batch is None:
            trainer.on_train_start()
            batch = next(trainer.dataloader_train)
        values = [loss_of(trainer, batch)]
        found[name] = {"start": _added(trainer, batch)}
        for _ in range(trainer.num_iterations_per_epoch):
            trainer.train_step(batch)
        found[name] |= {"values": [*values, loss_of(trainer, batch)], **_added(trainer, batch)}
    return found


def _added(trainer: Any, batch: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """Return the stock loss and what is added to it; a Hausdorff loss by scipy's distances, too."""
    loss = trainer.loss
    if not hasattr(loss, "stock"):
        return {}
    with torch.no_grad():
        output = trainer.network(batch["data"])
        stock, added = loss.stock(output, batch["target"]), loss.added(output, batch["target"])
    found = {"stock": float(stock), "share": loss.weight * float(added), "added": float(added)}
    if type(trainer).__name__.endswith("Hausdorff") and not trainer.label_manager.has_regions:
        found["spacing"] = list(trainer.configuration_manager.spacing)
        found["by_scipy"] = hausdorff_of_levels(trainer, output, batch["target"])
    return found


def plain_levels(folder: Path) -> dict[str, Any]:
    """Train each trainer a step without deep supervision."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    nnUNetTrainer.enable_deep_supervision = property(  # set by __init__ of every trainer
        lambda self: False, lambda self, value: None
    )
    found, batch = {}, None
    for name in ("", *OTHERS):
        trainer = trainer_of(NAME + name, iterations=1)
        if batch is None:
            trainer.on_train_start()
            batch = next(trainer.dataloader_train)
            assert isinstance(batch["target"], torch.Tensor)
        found[name] = float(trainer.train_step(batch)["loss"])
    del nnUNetTrainer.enable_deep_supervision
    return found


def page(folder: Path) -> dict[str, Any]:
    """Train with the trainers of the page's example."""
    return nnunet_built.page()


def built(folder: Path) -> dict[str, Any]:
    """Compare losses of other configurations, which are built and not trained with."""
    return nnunet_built.built(folder)


def errors(folder: Path) -> dict[str, str]:
    """Return what is said where something is wrong."""
    said = {}
    for task in _wrong():
        try:
            task()
        except Exception as error:
            said[task.__name__] = f"{type(error).__name__}: {error}"
    return said


def _wrong() -> Iterator[Callable[[], object]]:
    def misspelt() -> None:
        trainer_of(f"{NAME}Hausdorf", iterations=1)

    def no_spacing() -> None:
        trainer = trainer_of(f"{NAME}Hausdorff", iterations=1)
        del trainer.configuration_manager.configuration["spacing"]
        trainer._build_loss()

    def wrong_order() -> None:
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        from segloss_fast.compat.nnunet import HausdorffMixin

        type("Mine", (nnUNetTrainer, HausdorffMixin), {})

    yield from (misspelt, no_spacing, wrong_order)


def workers(number: str) -> None:
    """Set how many processes nnU-Net augments data with."""
    os.environ.update({"nnUNet_n_proc_DA": number})


def main() -> None:
    """Do what the arguments say."""
    folder, kind, tasks = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(folder / name)
    torch.set_num_threads(1)  # several run side by side
    times = {}
    for task in ("prepare", *tasks):
        begin = time.perf_counter()
        if task == "prepare":
            workers("1")  # of 0 planning makes a number of threads
            if not (folder / "raw").exists():
                prepare(folder, kind)
            workers("0")  # or no run is as the one before
        else:
            with following() if task in FOLLOWED else nullcontext():
                result = globals()[task](folder)
            print("FOUND", task, json.dumps(result), flush=True)
        times[task] = round(time.perf_counter() - begin, 1)
    print("FOUND seconds", json.dumps(times))


if __name__ == "__main__":
    main()
