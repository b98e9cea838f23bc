"""The tiers of the suite, and how a test says which of its cases run in which.

``quick`` is for the loop of somebody at work, ``test`` proves that a build is right, ``all`` is
what a change must pass; ``hand`` takes longer than that may. A tier runs the cases of those before
it, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

TIERS = ("quick", "test", "all", "hand")
VARIABLE = "SEGLOSS_TEST_TIER"  # set by the option --tier, before the tests are imported


def chosen() -> str:
    """Return the tier that runs."""
    return os.environ.get(VARIABLE, "test")


def begins_in(tier: str) -> pytest.MarkDecorator:
    """Return the mark of cases that run in this tier and those after it."""
    assert tier in TIERS, tier
    return pytest.mark.tier(tier)


def few(values: Iterable[Any], *, quick: int = 1, test: int) -> list[Any]:
    """Return the values for ``parametrize``: the first ones for each tier, the rest for ``all``.

    Args:
        values: Of one parameter.
        quick: How many of them the tier ``quick`` runs.
        test: How many the tier ``test`` runs.
    """
    found = []
    for place, value in enumerate(values):
        marks = [] if place < quick else [begins_in("test" if place < test else "all")]
        found.append(pytest.param(value, marks=marks))
    return found


def examples(*, quick: int, test: int, every: int) -> settings:
    """Return hypothesis's settings with so many examples in each tier; they are always the same."""
    return settings(
        max_examples={"quick": quick, "test": test}.get(chosen(), every),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
