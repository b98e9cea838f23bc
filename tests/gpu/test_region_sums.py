"""region_sums on a CUDA device by the reference: what impl="auto" takes where kernels do not serve.

Kernels are tried there by the contract, tests/ops/test_region_sums*.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from segloss_fast.ops.region_sums import TERMS
from tests.helpers import relative_l2
from tests.machines import Machine
from tests.ops.one_class_cases import IGNORED, soft_mask, turned
from tests.ops.region_sums_cases import KINDS, Case, case_of, check, options_of, sums
from tests.ops.samples import ACTIVATIONS

pytestmark = pytest.mark.of("reference")
THERE = Machine("region_sums", "cuda_reference", "cuda", "reference")


@pytest.mark.parametrize(("activation", "ce_activation"), ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", [0.0, 0.7, 2.0])
def test_every_term(activation: str, ce_activation: str, kind: str, gamma: float) -> None:
    case = case_of((2, 5, 7, 11, 13), kind, TERMS, activation, ce_activation, gamma)
    if activation == "probabilities":
        # 1 - p of a rounded p near 1 amplifies nothing but the rounding.
        case = replace(case, x=case.x.clamp(0.01, 0.99))
    check(THERE, case.to(torch.float32))


@pytest.mark.parametrize("bad", [255.0, -1.0, torch.nan])
def test_values_of_one_class(bad: float) -> None:
    mask = soft_mask((33, 65))
    options = options_of(TERMS, "sigmoid", ignore_index=IGNORED)
    found = [
        check(THERE, Case(mask.clean.float(), target, None, options))
        for target in (mask.target, mask.target[:, 0], turned(mask.target))
    ]
    assert all(relative_l2(grad, found[0][1]) < 1e-6 for _, grad in found)
    target, labels = mask.values.float()[:, 0], mask.values.round().long()
    target[1, 20, 7], labels[1, 0, 20, 7] = bad, 2
    for wrong in (target, labels):
        case = Case(mask.clean.float(), wrong, None, options_of(("tp",), "sigmoid"))
        assert sums(THERE, case.each(THERE.place)).isnan().all()
