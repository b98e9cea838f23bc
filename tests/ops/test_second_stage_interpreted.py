"""The kernel that adds what programs have left, where these are more than it reads at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segloss_fast.ops._triton import launch, tiling
from segloss_fast.ops._triton.sums import total_sums
from segloss_fast.ops.region_sums import triton_launch
from tests.machines import Machine
from tests.ops.region_sums_cases import LOSS_TERMS, Case, check, options_of

MACHINE = Machine("region_sums", *("interpreted",) * 2, "triton")

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # of arithmetic with NaN
    pytest.mark.usefixtures("new_tensors_are_nan"),
]
PROGRAMS, AT_ONCE = 13, 4


@pytest.fixture(autouse=True)
def _many_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "MAX_PROGRAMS", PROGRAMS)
    monkeypatch.setattr(launch, "TOTAL", 4 * AT_ONCE)


@pytest.mark.parametrize("batch", [1, 3])
def test_loops_add_the_rest(batch: int) -> None:
    """Partials and flags; their memory is NaN before."""
    x = torch.randn(batch, 3, 80, 77, generator=torch.Generator().manual_seed(0))
    target = torch.randint(3, (batch, 80, 77), generator=torch.Generator().manual_seed(1))
    o = options_of(LOSS_TERMS)
    rows, invalid = (x.new_empty(size, dtype=torch.float64) for size in ((5, batch, 3), (2,)))
    first, total = triton_launch.forward_launches(x, target, None, o, rows, invalid)
    assert total.kernel is total_sums
    chunks = first.arguments["chunks"]
    assert batch * chunks >= PROGRAMS - 1
    assert total.constants["ROWS"] == AT_ONCE < chunks + (batch > 1)
    check(MACHINE, Case(x, target, None, o))


@pytest.mark.parametrize("at", [0, -1])
def test_the_first_invalid_label_is_found_wherever_it_is(at: int) -> None:
    x, target = torch.randn(2, 3, 80, 77), torch.zeros(2, 80, 77, dtype=torch.int64)
    target[1].view(-1)[at] = 9
    target[1].view(-1)[-1 if at == 0 else 3000] = 7
    rows, invalid = triton_launch.forward(x, target, None, options_of(("tp", "target")))
    assert rows.isnan().all()
    np.testing.assert_equal(invalid.tolist(), [2, 9 if at == 0 else 7])
