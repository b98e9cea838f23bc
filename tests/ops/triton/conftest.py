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
