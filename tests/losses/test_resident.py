"""Class weights and the like, as they come to the device of the input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segloss_fast.losses._resident import resident

ELSEWHERE = torch.empty(0, dtype=torch.float64, device="meta")  # instead of a GPU


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_numbers_in_host_memory_are_copied_once(kind: type) -> None:
    first = resident(kind([1.0, 2.5]), ELSEWHERE)
    assert resident(kind([1.0, 2.5]), ELSEWHERE) is first
    assert (first.device.type, first.dtype) == ("meta", torch.float64)
    assert resident(kind([1.0, 3.5]), ELSEWHERE) is not first


def test_a_matrix_is_copied_once() -> None:
    matrix = [[0.0, 1.0], [1.0, 0.0]]
    first = resident(matrix, ELSEWHERE)
    assert first.shape == (2, 2)
    assert resident(torch.tensor(matrix), ELSEWHERE) is first


def test_a_single_number_keeps_its_shape() -> None:
    assert resident(2.5, ELSEWHERE).shape == ()  # for the error of who wanted a row


def test_numbers_that_are_there_are_seen_as_they_are() -> None:
    like = torch.zeros(1)
    weights = torch.tensor([1.0, 2.0])
    assert resident(weights, like) is weights
    weights[0] = 5
    assert resident(weights, like).tolist() == [5, 2]
    changed = weights.double()
    first = resident(changed, ELSEWHERE)
    changed[0] = 7
    assert resident(changed, ELSEWHERE) is not first


def test_weights_that_are_learned_keep_their_gradient() -> None:
    weights = torch.tensor([1.0, 2.0], requires_grad=True)
    assert resident(weights, ELSEWHERE).requires_grad
