"""distance_transform by SciPy, which serves where there are no kernels, equals the definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segloss_fast import _native, distance_transform
from segloss_fast.ops.distance_transform import reference, scipy_transform
from segloss_fast.ops.distance_transform.op import kernels
from segloss_fast.ops.distance_transform.reference import SIDES

SHAPES = [(2, 3, 17), (2, 2, 9, 11), (1, 2, 5, 6, 7), (1, 1, 1), (0, 2, 3), (2, 0, 3), (1, 1, 0, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("squared", [False, True])
def test_equals_the_definition(shape: tuple[int, ...], side: str, squared: bool) -> None:
    torch.manual_seed(0)
    masks = [torch.rand(shape) < density for density in (0.0, 0.1, 0.6, 0.95, 1.0)]
    for mask in (*masks, masks[2].to(torch.uint8), torch.where(masks[2], torch.nan, 0.0)):
        for spacing in ([1.0] * (len(shape) - 2), [0.3, 1e-20, 7e9][: len(shape) - 2]):
            found = scipy_transform.forward(mask, spacing, side, squared)
            true = reference.forward(mask, spacing, side, squared)
            assert found.is_contiguous()
            torch.testing.assert_close(found, true, rtol=2e-7, atol=0)


def test_unit_squares_are_exact() -> None:
    mask = torch.rand(1, 1, 40, 50, generator=torch.Generator().manual_seed(1)) < 0.97
    found = scipy_transform.forward(mask, [1.0, 1.0], "inside", True)
    assert torch.equal(found, reference.forward(mask, [1.0, 1.0], "inside", True))


def test_any_strides() -> None:
    mask = (torch.rand(5, 4, 3, 2, generator=torch.Generator().manual_seed(2)) < 0.7).permute(
        3, 2, 1, 0
    )
    found = scipy_transform.forward(mask, [1.0, 2.0], "signed", False)
    assert torch.equal(found, reference.forward(mask, [1.0, 2.0], "signed", False))


def test_serves_where_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = scipy_transform.forward

    def counting(*given: Any) -> torch.Tensor:  # noqa: ANN401
        calls.append(given)
        return forward(*given)

    monkeypatch.setattr(_native, "why_no_native", lambda *primitive: "taken away")
    monkeypatch.setattr(scipy_transform, "forward", counting)
    monkeypatch.setattr(kernels, "_steps", {})  # which remember what other tests asked for
    mask = torch.rand(1, 1, 9, 9) < 0.5
    asked = distance_transform(mask, impl="reference")
    assert not calls
    assert torch.equal(distance_transform(mask), asked)
    assert len(calls) == 1
    monkeypatch.setattr(scipy_transform, "_installed", lambda: False)
    assert torch.equal(distance_transform(mask), asked)
    assert len(calls) == 1


def test_compilers_see_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "why_no_native", lambda *primitive: "taken away")
    mask = torch.rand(1, 1, 9, 9) < 0.5
    compiled = torch.compile(distance_transform, fullgraph=True, backend="eager")
    assert torch.equal(compiled(mask), distance_transform(mask, impl="reference"))


def test_is_no_name_to_ask_for() -> None:
    with pytest.raises(ValueError, match="impl must be one of"):
        distance_transform(torch.ones(1, 1, 3), impl="scipy")
    reason = kernels.why_not("scipy", torch.device("cuda"))
    assert reason == "SciPy computes on the CPU"


def test_the_default_device_does_not_matter() -> None:
    mask = torch.ones(1, 2, 5)
    mask[0, 0, 0] = 0
    with torch.device("meta"):
        found = scipy_transform.forward(mask, [1.0], "inside", False)
    assert found.tolist() == [[[0, 1, 2, 3, 4], [torch.inf] * 5]]
