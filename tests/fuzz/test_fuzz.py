"""Some random calls, always the same: the more of them the later the tier."""

from __future__ import annotations

import pytest

from segloss_fast._native import _C
from tests.fuzz.drive import drive
from tests.suite.tiers import begins_in

CALLS = {"public": 400, "raw": 1000}


@begins_in("all")
@pytest.mark.parametrize("kind", list(CALLS))
def test_random_calls(kind: str) -> None:
    if kind == "raw" and _C is None:
        pytest.skip("the native module is not built")
    found = drive(kind, 0, CALLS[kind])
    print(f"fuzz {kind}: {dict(found.counts)}")
    assert not found.wrong, "\n\n".join(found.wrong)
    assert found.tried == CALLS[kind]
    assert found.counts["served"] > CALLS[kind] / 4  # one that is refused tries little


@begins_in("all")
def test_what_is_planted_is_noticed() -> None:
    found = drive("planted", 0, 5, limit=10)
    assert found.counts == {"served": 2}
    for wrong, said in zip(
        found.wrong, ("ended with -6", "more than 10 s", "a wrong answer"), strict=True
    ):
        assert said in wrong
