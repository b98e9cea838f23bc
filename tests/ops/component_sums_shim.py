"""Calls of component_sums' CUDA operators on the CPU, for the sanitizers.

As a program it makes random calls, and some that must be refused; it needs the library's path.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops._voxels.maps import ACTIVATIONS
from segloss_fast.ops.component_sums import TERMS, reference
from tests.cuda_shim.operators import load
from tests.helpers import relative_l2
from tests.ops.distance_transform_cases import LAYOUTS, lay_out

TERM_CODES = list(range(len(TERMS)))
# Arguments of the raw operator of forward.
GOOD: dict[str, Any] = {
    "input": torch.zeros(1, 2, 5),
    "target": torch.zeros(1, 5, dtype=torch.int64),
    "bins": torch.zeros(1, 1, 5, dtype=torch.int32),
    "voxel_weight": None,
    "count": 3,
    "activation": 0,
    "terms": TERM_CODES,
    "ignore_index": None,
}
BAD: list[dict[str, Any]] = [
    {"input": torch.zeros(1, 2)},
    {"input": torch.zeros(1, 2, 5, dtype=torch.int64)},
    {"target": torch.zeros(1, 4, dtype=torch.int64)},
    {"bins": torch.zeros(1, 1, 5, dtype=torch.int64)},
    {"bins": torch.zeros(1, 1, 4, dtype=torch.int32)},
    {"bins": torch.zeros(1, 5, dtype=torch.int32)},
    {"voxel_weight": torch.zeros(1, 1, 4)},
    {"count": -1},
    {"count": 2**31},
    {"activation": 3},
    {"terms": []},
    {"terms": [0, 0]},
    {"terms": [len(TERMS)]},
]


def forward(*arguments: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return the rows and what is said of labels, by the CUDA kernels on the CPU."""
    found: tuple[Tensor, Tensor] = torch.ops.segloss_shim_component_sums._component_sums(*arguments)
    return found


def backward(*arguments: Any) -> Tensor:  # noqa: ANN401
    """Return the gradient, by the CUDA kernels on the CPU."""
    library = torch.ops.segloss_shim_component_sums
    found: Tensor = library._component_sums_backward(*arguments)
    return found


def run_random(draw: random.Random) -> None:
    """Compare a problem of any kind with the reference in float64."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    classes, count = draw.choice((1, 2, 3, 5)), draw.choice((0, 1, 9, 40))
    space = draw.choice(((1,), (130,), (9, 30), (3, 5, 17)))
    shape = (draw.choice((1, 2)), classes, *space)
    x = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    activation = draw.randrange(1 if classes == 1 else 0, 3)  # 1 - p of one class would be 0
    x = x.sigmoid() if activation == 2 else x
    labels = torch.randint(0, max(classes, 2), (shape[0], *space), generator=generator)
    dense = classes > 1 and draw.random() < 0.3
    ignored = None if dense else draw.choice((None, 1))
    target = (torch.rand(shape, generator=generator) < 0.5).to(torch.uint8) if dense else labels
    own = draw.choice((1, classes))
    bins = torch.randint(0, count + 1, (shape[0], own, *space), generator=generator)
    weight = torch.randn((shape[0], draw.choice((1, classes)), *space), generator=generator)
    layout = draw.choice(LAYOUTS)
    w = draw.choice((None, lay_out(weight, layout)))
    x, bins = lay_out(x, layout), lay_out(bins.int(), draw.choice(LAYOUTS))
    terms = draw.sample(TERM_CODES, draw.randrange(1, len(TERMS) + 1))
    options = (count, activation, terms, ignored)
    rows, invalid = forward(x, target, bins, w, *options)
    leaf = x.detach().requires_grad_()
    wide = None if w is None else w.double()
    names = [TERMS[term] for term in terms]
    true, _ = reference.forward(
        leaf, target, bins, count, ACTIVATIONS[activation], names, wide, ignored
    )
    assert invalid.tolist() == [0, 0]
    assert relative_l2(rows, true.detach()) < 1e-12, options
    factors = torch.randn(true.shape, generator=generator, dtype=torch.float64)
    grad = backward(factors, x, target, bins, w, *options)
    (true_grad,) = torch.autograd.grad((factors * true).sum() + 0 * leaf.sum(), leaf)
    assert relative_l2(grad, true_grad) < 1e-12, options


def run_malformed() -> None:
    """Make the calls that must be refused."""
    forward(*GOOD.values())
    for change in BAD:
        try:
            forward(*{**GOOD, **change}.values())
        except RuntimeError:
            continue
        raise AssertionError(f"not refused: {change}")
    for grad in (torch.zeros(len(TERMS), 1, 2, 4), torch.zeros(1, dtype=torch.float64)):
        try:
            backward(grad, *GOOD.values())
        except RuntimeError:
            continue
        raise AssertionError("a wrong gradient was not refused")


def main() -> None:
    path, cases = Path(sys.argv[1]), int(sys.argv[2])
    library = load(path)
    draw = random.Random(0)
    for number in range(cases):
        library.segloss_shim_set_seed(number)
        run_random(draw)
    run_malformed()
    print("no finding")


if __name__ == "__main__":
    main()
