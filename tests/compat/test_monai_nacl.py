"""MONAI's NACLLoss: its filters, and what may be changed after construction."""

from __future__ import annotations

from typing import Any

import monai.losses
import pytest
import torch

from tests.compat.test_monai_structure import both, changed, pair

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("ops", ["mean", "gaussian"])
def test_attributes_of_nacl_take_effect(ops: str) -> None:
    x, t = pair(2, 3, 6, 5)
    losses = both("NACLLoss", 3, 2, kernel_ops=ops)
    weight = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    layer = {"svls_layer.filter": torch.rand(3, 3, generator=torch.Generator().manual_seed(1))}
    for path, value in (
        *(("alpha", 0.8), ("distance_type", "l2"), ("cross_entropy.label_smoothing", 0.5)),
        *(("cross_entropy", weight), *(layer.items() if ops == "mean" else ())),
    ):
        before = losses[0](x, t[:, 0])
        changed(losses, path, value)
        torch.testing.assert_close(losses[0](x, t[:, 0]), losses[1](x, t[:, 0]))
        assert losses[0](x, t[:, 0]) != before, path


def test_gaussians_of_nacl_are_in_its_state() -> None:
    x, t = pair(2, 3, 6, 5)
    ours, theirs = both("NACLLoss", 3, 2, kernel_ops="gaussian", sigma=(0.5, 1.5))
    before = ours(x, t[:, 0])
    other = monai.losses.NACLLoss(3, 2, kernel_ops="gaussian", sigma=(2.0, 0.7))
    ours.load_state_dict(other.state_dict())
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x, t[:, 0]), theirs(x, t[:, 0]))
    assert ours(x, t[:, 0]) != before


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((6, 5), {"kernel_size": 4}),
        ((3, 700), {"kernel_ops": "gaussian", "sigma": 3.0}),
        ((700, 3), {"kernel_ops": "gaussian", "sigma": 3.0}),
        ((4, 5), {"kernel_ops": "gaussian", "sigma": 0.0}),
    ],
)
def test_neighbours_of_nacl(size: tuple[int, int], options: dict[str, Any]) -> None:
    _, t = pair(2, 3, *size)
    ours, theirs = both("NACLLoss", 3, 2, **options)
    torch.testing.assert_close(ours.get_constr_target(t[:, 0]), theirs.get_constr_target(t[:, 0]))
