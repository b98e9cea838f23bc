"""What the package exports: every name is there, documented, and reachable in both forms."""

from __future__ import annotations

import inspect
import subprocess
import sys

import segloss_fast
from segloss_fast import functional, losses
from tests.suite.tiers import begins_in


def test_every_public_name_exists_and_is_documented() -> None:
    for module in (segloss_fast, functional, losses):
        assert sorted(module.__all__) == sorted(set(module.__all__))
        for name in module.__all__:
            value = getattr(module, name)
            assert name == "__version__" or inspect.getdoc(value), name


def test_every_loss_is_a_module_and_a_function() -> None:
    for name in losses.__all__:
        module = getattr(segloss_fast, name)
        assert getattr(losses, name) is module
        documented = inspect.getdoc(module) or ""
        assert "Args:" in documented
        assert "Raises:" in documented
    functions = {name.replace("_", "") for name in functional.__all__}
    made_of_others = {"WeightedSum"}  # by + and *
    assert functions == {name.lower() for name in losses.__all__ if name not in made_of_others}


def test_backends_say_what_runs_and_why_the_rest_does_not() -> None:
    found = segloss_fast.backends()
    assert {b.impl for b in found} == {"reference", "native", "triton", "scipy"}
    scipy = [(b.primitive, b.device) for b in found if b.impl == "scipy"]
    assert scipy == [("distance_transform", "cpu")]
    assert {b.device for b in found} == {"cpu", "cuda"}
    assert any(b.available for b in found if (b.device, b.impl) == ("cpu", "reference"))
    assert all(b.detail for b in found)
    assert len({(b.primitive, b.device, b.impl) for b in found}) == len(found)


@begins_in("test")
def test_the_command_prints_every_backend() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "segloss_fast", "-v"], capture_output=True, text=True, check=True
    )
    assert f"segloss_fast {segloss_fast.__version__}" in run.stdout
    for backend in segloss_fast.backends():
        assert backend.detail in run.stdout
    assert run.stderr == ""
