"""Data sets in nnU-Net's format, planned and preprocessed by nnU-Net, in its environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 32
KINDS: dict[str, dict[str, Any]] = {
    "labels": {"labels": {"background": 0, "organ": 1, "tumour": 2}, "spacing": (1.0, 1.0, 1.0)},
    # Of SimpleITK's axes, in which the coarse one is the last.
    "ignored": {
        "labels": {"background": 0, "organ": 1, "tumour": 2, "ignore": 3},
        "spacing": (1.0, 1.0, 3.0),
    },
    "regions": {
        "labels": {"background": 0, "whole": [1, 2], "tumour": 2, "ignore": 3},
        "regions_class_order": [1, 2],
        "spacing": (1.0, 1.0, 1.0),
    },
}


def make_images(folder: Path, kind: str) -> None:
    """Write five cases in nnU-Net's format: an organ with a tumour in it, and noise."""
    import SimpleITK

    about = KINDS[kind]
    raw = folder / "raw" / "Dataset001_Test"
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    grid = np.stack(np.meshgrid(*[np.arange(SIDE)] * 3, indexing="ij"))
    generator = np.random.default_rng(0)
    for case in range(5):
        centre = SIDE / 2 + generator.uniform(-3, 3, 3)
        away = np.sqrt(((grid - centre[:, None, None, None]) ** 2).sum(0))
        labels = (away < 10).astype(np.uint8) + (away < 5)
        image = labels + generator.normal(0, 0.3, labels.shape)
        if "ignore" in about["labels"]:
            labels[generator.random(labels.shape) < 0.3] = 3
        for values, name in (
            (image.astype(np.float32), f"imagesTr/case_{case}_0000.nii.gz"),
            (labels, f"labelsTr/case_{case}.nii.gz"),
        ):
            found = SimpleITK.GetImageFromArray(values)
            found.SetSpacing(about["spacing"])
            SimpleITK.WriteImage(found, str(raw / name))
    said = {key: value for key, value in about.items() if key != "spacing"}
    said |= {"channel_names": {"0": "CT"}, "numTraining": 5, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(said))


def prepare(folder: Path, kind: str) -> None:
    """Make, plan and preprocess the data set; the planned network is made small."""
    make_images(folder, kind)
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    api.extract_fingerprints([1], num_processes=1, check_dataset_integrity=False)
    api.plan_experiments([1])
    path = folder / "preprocessed" / "Dataset001_Test" / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    full = plans["configurations"]["3d_fullres"]
    sides = [32 if side >= 32 else side for side in full["patch_size"]]
    network = full["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [4 * 2**i for i in range(network["n_stages"])]
    network["n_conv_per_stage"] = [1] * network["n_stages"]
    network["n_conv_per_stage_decoder"] = [1] * (network["n_stages"] - 1)
    full["patch_size"] = sides
    path.write_text(json.dumps(plans))
    api.preprocess([1], configurations=["3d_fullres"], num_processes=[1])
