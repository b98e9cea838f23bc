"""Which versions of the peers are matched, and what is said of others."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest

from segloss_fast.__main__ import main
from segloss_fast.compat._peers import PEERS
from tests.conftest import ROOT, run_python

VERSIONS = {"monai": "1.6.1", "segmentation-models-pytorch": "0.6.0", "kornia": "0.9.0"}
VERSIONS["nnunetv2"] = "2.8.1"


def said(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    versions: Mapping[str, str],
) -> str:
    """Return what ``python -m segloss_fast --compat`` says where these versions are installed."""

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(sys, "argv", ["segloss_fast", "--compat"])
    main()
    return capsys.readouterr().out


def test_versions_are_those_of_the_tests() -> None:
    assert {peer.name: peer.version for peer in PEERS.values()} == VERSIONS
    project = (ROOT / "pyproject.toml").read_text()
    requirements = (ROOT / "tests/compat/nnunet_requirements.txt").read_text()
    assert f"nnunetv2=={VERSIONS['nnunetv2']}" in requirements.split()
    for name in ("monai", "kornia"):
        assert re.search(f'"{name}=={re.escape(VERSIONS[name])}[";]', project)


@pytest.mark.peers
def test_installed_versions_match() -> None:
    for peer in PEERS.values():
        assert peer.mismatch() is None


def test_matching_versions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = said(monkeypatch, capsys, {**VERSIONS, "monai": "1.6.1+cu130"})
    assert "segloss_fast.compat.monai: as monai 1.6.1; monai 1.6.1+cu130 is installed\n" in out
    assert "segloss_fast.compat.smp: as segmentation-models-pytorch 0.6.0;" in out
    assert "segloss_fast.compat.kornia: as kornia 0.9.0; kornia 0.9.0 is installed\n" in out
    assert "another version" not in out
    for peer in PEERS.values():
        assert all(f"  differs: {difference}\n" in out for difference in peer.differences)
    assert out.endswith("all known differences: docs/compat.md\n")
    assert Path(ROOT, "docs/compat.md").is_file()


def test_other_versions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = said(monkeypatch, capsys, {"monai": "1.5.0", "kornia": "0.9.0rc1"})
    assert "gives the numbers of monai 1.6.1, and monai 1.5.0 is installed" in out
    assert "gives the numbers of kornia 0.9.0, and kornia 0.9.0rc1 is installed" in out
    assert "as segmentation-models-pytorch 0.6.0; not installed, not needed\n" in out
    weekly = said(monkeypatch, capsys, {"monai-weekly": "1.7.dev2612"})
    assert "gives the numbers of monai 1.6.1, and monai-weekly 1.7.dev2612 is installed" in weekly


IMPORTS = """
import importlib, json, warnings
from importlib import metadata
metadata.version = lambda name: "9.9"
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        import segloss_fast.compat.monai
        import segloss_fast.compat.smp
        import segloss_fast.compat.kornia
        import segloss_fast.compat.nnunet
print(json.dumps([(w.category.__name__, w.filename, str(w.message)) for w in caught]))
"""


@pytest.mark.peers
def test_an_import_warns_once_of_another_version() -> None:
    done = run_python("-W", "ignore", "-c", IMPORTS, folder=ROOT)
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout.splitlines()[-1])
    assert [(category, place) for category, place, _ in found] == [("UserWarning", "<string>")] * 4
    for (_, _, message), (name, version) in zip(found, VERSIONS.items(), strict=True):
        assert f"gives the numbers of {name} {version}, and {name} 9.9 is installed" in message
