"""The interpreter computes with numpy, which warns of infinities."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def numpy_is_silent() -> Iterator[None]:
    """Tell numpy not to warn."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add up lovasz's counters in few programs: the interpreter's time is theirs."""
    from segloss_fast.ops.lovasz import triton_launch

    monkeypatch.setattr(triton_launch, "BLOCK", 1 << 16)
