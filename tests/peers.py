"""Peers that are not imported as a whole."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest

from tests.compat import nnunet_site


def smp_losses(name: str) -> Any:  # noqa: ANN401
    """Return a module of segmentation-models-pytorch's losses; skip the test without them.

    The package itself imports timm and torchvision, for its models. They need a torchvision of the
    same build as torch, so it is no dependency of the tests: ``pip install --no-deps
    segmentation-models-pytorch==0.6.0`` is enough for the losses.
    """
    spec = find_spec("segmentation_models_pytorch")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("segmentation-models-pytorch is not installed")
    package = ModuleType("smp_losses")
    package.__path__ = [f"{spec.submodule_search_locations[0]}/losses"]
    sys.modules.setdefault("smp_losses", package)
    return importlib.import_module(f"smp_losses.{name}")


def nnunet_losses(name: str) -> Any:  # noqa: ANN401
    """Return a module of nnU-Net's losses; skip the test without them.

    They need torch and numpy alone. Where nnU-Net is not installed they are taken out of the folder
    that the tests of its trainers install it into (tests/compat/nnunet_site.py), which the tier
    "all" makes.
    """
    if "nnunetv2" not in sys.modules and find_spec("nnunetv2") is None:
        site = nnunet_site.found()
        if site is None:
            pytest.skip("nnU-Net is not installed")
        package = ModuleType("nnunetv2")
        package.__path__ = [str(site / "nnunetv2")]
        sys.modules["nnunetv2"] = package
    return importlib.import_module(f"nnunetv2.training.loss.{name}")
