"""nnU-Net itself: it plans, trains with its trainer and with ours, and predicts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from segloss_fast.__main__ import main
from segloss_fast.compat import nnunet
from segloss_fast.compat._peers import Peer
from tests import pages
from tests.compat import nnunet_site
from tests.suite.tiers import begins_in
from tests.suite.tree import ROOT

PAGE = ROOT / "docs" / "nnunet.md"
SECONDS = 900  # of which a machine with nothing else to do needs a tenth
ALL = {
    *("", "Hausdorff", "Boundary", "Lovasz", "ClDice", "TopK", "Focal", "Tversky"),
    *("Blob", "Component", "Bidirectional", "ComponentTversky"),
}


def run(folder: Path, kind: str, *tasks: str) -> dict[str, Any]:
    """Return what the program found out, by task, and all that it said."""
    arguments = ["-m", "tests.compat.nnunet_program", str(folder), kind, *tasks]
    own = own_trainers(folder)
    trainers = {"nnUNet_extTrainer": os.pathsep.join([str(own), folder_of_trainers()])}
    done = nnunet_site.run(*arguments, timeout=SECONDS, **trainers)
    assert done.returncode == 0, done.stdout[-5000:]
    lines = [line.split(" ", 2) for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    return {"said": done.stdout, **{name: json.loads(text) for _, name, text in lines}}


def own_trainers(folder: Path) -> Path:
    """Return a folder with a file that holds what the page says a user writes."""
    (example,) = (block for block in pages.blocks(PAGE) if block.language == "py")
    assert "class nnUNetTrainerMine" in example.code
    own = folder / "own"
    own.mkdir()
    (own / "my_trainers.py").write_text(example.code)
    return own


@cache
def folder_of_trainers() -> str:
    """Return what ``python -m segloss_fast --nnunet-trainers`` prints where nnU-Net is."""
    done = nnunet_site.run("-m", "segloss_fast", "--nnunet-trainers", timeout=SECONDS)
    assert done.returncode == 0, done.stdout
    folder = Path(done.stdout.rstrip("\n"))
    assert folder == nnunet.TRAINERS
    return str(folder)


def check_comparison(found: dict[str, Any], loss: str) -> None:
    """Assert that both trainers had the same curve, and both losses the same gradients."""
    assert len(found["stock"]) == len(found["ours"]) == 4
    assert found["stock"] == pytest.approx(found["ours"], abs=1e-4, rel=0)
    assert len(set(found["stock"])) == 4
    assert len(found["steps"]) >= 4
    for value, gradient in found["steps"]:
        assert value < 1e-5
        assert 0 < gradient < 1e-5
    assert found["loss"] == loss


def check_others(found: dict[str, Any]) -> None:
    """Assert that the loss of each trainer fell, and that maps begin at their share."""
    assert set(found) == ALL - {""}
    for name, one in found.items():
        before, after = one["values"]
        assert after < before - 0.02, name
    for name in ("Hausdorff", "Boundary"):
        start = found[name]["start"]
        assert 0.005 < start["share"] / start["stock"] < 0.3, name
    assert found["ClDice"]["start"]["share"] == pytest.approx(
        0.5 * found["ClDice"]["start"]["added"]
    )


def check_page(found: dict[str, Any]) -> None:
    """Assert that the page's trainers have nnU-Net's schedule, and the losses that they name."""
    for one in found.values():
        assert "nnUNetTrainer_5epochs" in one["bases"]
    hausdorff, mine = found["hausdorff"], found["mine"]
    assert hausdorff["loss"] == pytest.approx(hausdorff["expected"], rel=1e-5)
    assert hausdorff["share"] > 0.01 * abs(hausdorff["loss"])
    before, after = mine["losses"]
    assert before == pytest.approx(mine["expected"], rel=1e-5)
    assert after < before


def check_built(found: dict[str, Any]) -> None:
    """Assert that configurations that pool the batch's Dice have nnU-Net's loss."""
    assert set(found) == {"2d", "3d_cascade_fullres"}
    for configuration, one in found.items():
        assert len(one["patch"]) == (2 if configuration == "2d" else 3)
        assert one["cascaded"] == (configuration != "2d")
        assert one["batch_dice"] is True
        assert one["levels"] > 1
        ((value, gradient),) = one["apart"]
        assert value < 1e-5
        assert 0 < gradient < 1e-5
        assert len(one["others"]) == len(ALL) - 1
        for loss, norm in one["others"]:
            assert abs(loss) < 100
            assert 0 < norm < 100


@pytest.mark.install
def test_labels(tmp_path: Path) -> None:
    found = run(tmp_path, "labels", "compare", "predict", "plain_levels", "errors", "built")
    check_comparison(found["compare"], "DC_and_CE_loss")
    assert {dtype for _, dtype in found["compare"]["targets"]} == {"torch.int16"}
    assert found["predict"]["shape"] == [32, 32, 32]
    assert set(found["predict"]["labels"]) <= {0, 1, 2}
    assert set(found["plain_levels"]) == ALL
    check_built(found["built"])
    errors = found["errors"]
    assert "Could not find requested nnunet trainer" in errors["misspelt"]
    assert "-tr one of nnUNetTrainerSegLossFast, nnUNetTrainerSegLossFastH" in found["said"]
    assert "the plans have spacing None" in errors["no_spacing"]
    assert "nnUNetv2_plan_and_preprocess" in errors["no_spacing"]
    assert "the mixin must come first" in errors["wrong_order"]


@pytest.mark.install
def test_ignored_labels_and_voxels_that_are_no_cubes(tmp_path: Path) -> None:
    found = run(tmp_path, "ignored", "compare", "others", "page", "built")
    check_comparison(found["compare"], "DC_and_CE_loss")
    sizes = [size for size, _ in found["compare"]["targets"]]
    assert sizes[1][2:] == [32, 16, 16]  # the coarse axis is pooled later
    check_others(found["others"])
    check_page(found["page"])
    check_built(found["built"])
    for hausdorff in (found["others"]["Hausdorff"], found["others"]["Hausdorff"]["start"]):
        assert hausdorff["spacing"] == [3, 1, 1]
        assert hausdorff["added"] == pytest.approx(hausdorff["by_scipy"], rel=1e-5)


@pytest.mark.install
def test_regions(tmp_path: Path) -> None:
    found = run(tmp_path, "regions", "compare", "others", "built")
    check_comparison(found["compare"], "DC_and_BCE_loss")
    assert {dtype for _, dtype in found["compare"]["targets"]} == {"torch.bool"}
    assert {size[1] for size, _ in found["compare"]["targets"]} == {3}
    check_others(found["others"])
    check_built(found["built"])


def test_an_old_nnunet_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["segloss_fast", "--nnunet-trainers"])
    monkeypatch.setattr(Peer, "installed", lambda self: ("nnunetv2", "2.5.2"))
    with pytest.raises(SystemExit, match="is installed: pip install --upgrade"):
        main()
    with pytest.raises(RuntimeError, match="need nnU-Net 2"):
        nnunet.SegLossFastMixin()._build_loss()
    monkeypatch.setattr(Peer, "installed", lambda self: None)
    main()
    said = capsys.readouterr()
    assert said.out == f"{nnunet.TRAINERS}\n"
    assert "pip install nnunetv2" in said.err
    with pytest.raises(RuntimeError, match="must end with a trainer of nnU-Net"):
        nnunet.SegLossFastMixin()._build_loss()


def test_the_folder_holds_one_file_and_is_no_package() -> None:
    """nnU-Net puts it on the module path, and imports all that is there."""
    names = [path.name for path in nnunet.TRAINERS.iterdir() if path.name != "__pycache__"]
    assert names == ["segloss_fast_trainers.py"]


@begins_in("test")
def test_the_mixins_need_no_nnunet() -> None:
    code = "import sys, segloss_fast.compat.nnunet; assert 'nnunetv2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
