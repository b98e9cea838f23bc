"""structural_error on every machine: not finite, far or empty; derivatives, threads, operators."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from segloss_fast.ops.structural_error import structural_error
from tests.machines import Machine, on, sized
from tests.ops.distance_transform_cases import lay_out
from tests.ops.structural_error_cases import (
    VALUES,
    Case,
    check,
    compare,
    far_apart,
    maps,
    run,
    wild,
)

OPTIONS: dict[str, Any] = {"window_size": 3, "sigma": 1.5, "constant": 0.01}


@on("interpreted", "cuda")  # the native gradient has NaN at other voxels
@pytest.mark.parametrize("dtype", VALUES, ids=str)
@sized(
    "shape",
    [(2, 2, 20), (2, 2, 6, 9), (1, 2, 4, 5, 6)],
    cuda=[(2, 2, 20), (2, 2, 6, 9), (1, 2, 9, 10, 11)],
)
def test_values_that_are_not_finite(
    machine: Machine, shape: Sequence[int], dtype: torch.dtype
) -> None:
    compare(machine, wild(Case(*maps(shape, random.Random(0), dtype, torch.float16))))


@on("native", "interpreted")  # a device has to hold what lies between
@pytest.mark.parametrize("shape", [(1, 2, 5), (1, 2, 2, 3), (1, 2, 1, 2, 3)], ids=str)
def test_offsets_past_2_to_the_31(machine: Machine, shape: Sequence[int], tmp_path: Path) -> None:
    case = Case(*maps(shape, random.Random(0), torch.float32, torch.uint8))
    compare(machine, far_apart(case, tmp_path))


@pytest.mark.parametrize("shape", [(0, 2, 4), (2, 0, 3, 3), (1, 2, 3, 0, 5)], ids=str)
def test_empty(machine: Machine, shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, device=machine.device, requires_grad=True)
    target = torch.empty(shape, device=machine.device)
    found = structural_error(x, target, impl=machine.impl, **OPTIONS)
    assert found.shape == shape
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == shape


@on("native", "interpreted", "cuda")
def test_repeated_bits_and_inputs_as_they_were(machine: Machine) -> None:
    case = Case(*maps((1, 2, 9, 7), random.Random(0)), 5)
    before = [case.values.clone(), case.target.clone(), case.grad.clone()]
    for one, other in zip(run(machine, case), run(machine, case), strict=True):
        assert torch.equal(one, other)
    for tensor, was in zip((case.values, case.target, case.grad), before, strict=True):
        assert torch.equal(tensor, was)


@on("native", "interpreted")
def test_the_public_way(machine: Machine) -> None:
    x, t, grad = maps((1, 3, 4, 5), random.Random(0))
    case = Case(x, t, grad, first=1)
    x = x.clone().requires_grad_()
    found = structural_error(x, t, first=1, impl=machine.impl, **OPTIONS)
    found.backward(grad)
    assert x.grad is not None
    check((found.detach(), x.grad), case)
    assert "structural_error" in str(found.grad_fn)


@on("reference", "native")
def test_gradcheck(machine: Machine) -> None:
    x, t, _ = maps((1, 2, 4, 3, 5), random.Random(0), torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: structural_error(x, t, impl=machine.impl, **OPTIONS),
        (x.requires_grad_(),),
        eps=1e-7,
    )


@on("native")
def test_any_number_of_threads_gives_the_same_bits(machine: Machine) -> None:
    before = torch.get_num_threads()
    case = Case(*maps((1, 1, 70, 12, 13), random.Random(0)), 7, 0.8, 0.1)
    try:
        results = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            results.append(run(machine, case))
    finally:
        torch.set_num_threads(before)
    for found, grad in results[1:]:
        assert torch.equal(found, results[0][0])
        assert torch.equal(grad, results[0][1])


@on("native", "interpreted")
@sized("layout", [torch.contiguous_format, torch.channels_last], interpreted=[None])
def test_opcheck(machine: Machine, layout: torch.memory_format | None) -> None:
    dtype = machine.pick(torch.float64, interpreted=torch.float32)
    shape = machine.pick((2, 3, 5, 6), interpreted=(1, 2, 2, 5))
    x, t, grad = maps(shape, random.Random(0), dtype)
    x = x if layout is None else x.to(memory_format=layout)
    options = (3, 1.5, 0.01, 1, machine.impl)
    operator = torch.ops.segloss_fast.structural_error.default
    torch.library.opcheck(operator, (x.clone().requires_grad_(), t, *options))
    backward = torch.ops.segloss_fast.structural_error_backward.default
    x = lay_out(x, "channels_last") if layout is None else x
    torch.library.opcheck(backward, (grad, x, t, *options))


@on("native", "interpreted")
def test_double_backward_is_refused(machine: Machine) -> None:
    x, t, _ = maps((1, 1, 5, 6), random.Random(0))
    x.requires_grad_()
    error = structural_error(x, t, impl=machine.impl, **OPTIONS)
    (grad,) = torch.autograd.grad(error.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="structural_error has no second derivative"):
        grad.sum().backward()
