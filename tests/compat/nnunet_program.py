"""Plans, trains and predicts with nnU-Net, in its environment; prints what a test asks for as JSON.

``python -m tests.compat.nnunet_program FOLDER KIND TASK...``, where KIND is of nnunet_dataset.KINDS
and TASK the name of a function below. The data set is made in FOLDER the first time.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.compat.nnunet_dataset import prepare

NAME = "nnUNetTrainerSegLossFast"
OTHERS = ("Hausdorff", "Boundary", "Lovasz", "ClDice", "TopK", "Focal", "Tversky")


def trainer_of(name: str, *, iterations: int, fold: int = 0) -> Any:  # noqa: ANN401
    """Return a trainer that nnU-Net finds by its name, ready to begin, the same each time."""
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from nnunetv2.run.run_training import get_trainer_from_args

    original = GaussianBlurTransform.__init__
    if not hasattr(GaussianBlurTransform, "original"):
        GaussianBlurTransform.original = original

        def without_benchmark(self: Any, *args: Any, **options: Any) -> None:  # noqa: ANN401
            original(self, *args, **{**options, "benchmark": False})

        GaussianBlurTransform.__init__ = without_benchmark
    trainer = get_trainer_from_args("1", "3d_fullres", fold, name, device=torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch = 1, iterations
    trainer.num_val_iterations_per_epoch = 1
    seed()
    trainer.initialize()
    seed()
    return trainer


def seed() -> None:
    """Begin all random numbers again."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def train(trainer: Any) -> list[float]:  # noqa: ANN401
    """Train, and return the loss of each iteration."""
    losses: list[float] = []
    step = trainer.train_step

    def recorded(batch: dict[str, Any]) -> Any:  # noqa: ANN401
        found = step(batch)
        losses.append(float(found["loss"]))
        return found

    trainer.train_step = recorded
    trainer.run_training()
    return losses


class Both(torch.nn.Module):
    """nnU-Net's loss, which trains, compared with another one at every step."""

    def __init__(self, stock: torch.nn.Module, ours: torch.nn.Module) -> None:
        super().__init__()
        self.stock, self.ours = stock, ours
        self.steps: list[tuple[float, float]] = []

    def forward(self, outputs: list[torch.Tensor], targets: list[torch.Tensor]) -> torch.Tensor:
        """Return nnU-Net's loss; note how far apart both are, value and gradients."""
        found = []
        with torch.enable_grad():
            for loss in (self.stock, self.ours):
                leaves = [x.detach().requires_grad_() for x in outputs]
                value = loss(leaves, targets)
                value.backward()
                found.append((value.item(), [x.grad for x in leaves]))
        (a, grads), (b, others) = found
        apart = 0.0
        for x, y in zip(grads, others, strict=True):
            if x is not None and y is not None:
                apart = max(apart, float((x - y).norm() / x.norm().clamp_min(1e-12)))
            else:
                assert x is None
                assert y is None
        self.steps.append((abs(a - b), apart))
        result: torch.Tensor = self.stock(outputs, targets)
        return result


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
        values = [_loss(trainer, batch)]
        found[name] = {"start": _added(trainer, batch)}
        for _ in range(trainer.num_iterations_per_epoch):
            trainer.train_step(batch)
        found[name] |= {"values": [*values, _loss(trainer, batch)], **_added(trainer, batch)}
    return found


def _loss(trainer: Any, batch: dict[str, Any]) -> float:  # noqa: ANN401
    with torch.no_grad():
        return float(trainer.loss(trainer.network(batch["data"]), batch["target"]))


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
        spacing = np.array(trainer.configuration_manager.spacing)
        found["spacing"] = spacing.tolist()
        sizes = [np.array(x.shape[2:]) for x in output]
        values = [
            hausdorff(x, t, spacing * sizes[0] / size)
            for x, t, size in zip(output, batch["target"], sizes, strict=True)
        ]
        weights = [0.5**level for level in range(len(values) - 1)]
        pairs = zip(weights, values, strict=False)
        found["by_scipy"] = sum(weight * value for weight, value in pairs) / sum(weights)
    return found


def hausdorff(x: torch.Tensor, target: torch.Tensor, spacing: np.ndarray) -> float:
    """Return the Hausdorff loss of both foreground classes, with scipy's distances.

    Voxels with the label 3 do not count, and are outside of the masks.
    """
    from scipy.ndimage import distance_transform_edt

    probabilities, labels = torch.softmax(x.double(), 1).numpy(), target.numpy()[:, 0]
    counted = labels != 3
    total = []
    for item in range(len(labels)):
        for c in (1, 2):
            p, t = probabilities[item, c], labels[item] == c
            squares = np.zeros(t.shape)
            for mask in ((p > 0.5) & counted[item], t):
                if mask.any() and not mask.all():
                    squares += distance_transform_edt(mask, spacing) ** 2
                    squares += distance_transform_edt(~mask, spacing) ** 2
            total.append(((p - t) ** 2 * squares)[counted[item]].mean())
    return float(np.mean(total))


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
            print("FOUND", task, json.dumps(globals()[task](folder)), flush=True)
        times[task] = round(time.perf_counter() - begin, 1)
    print("FOUND seconds", json.dumps(times))


if __name__ == "__main__":
    main()
