"""Many images with a loss each: their counters take no more memory than a few images need."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segloss_fast import lovasz
from segloss_fast.ops._operator import preference
from segloss_fast.ops.lovasz import bins, images, op
from segloss_fast.ops.lovasz.options import ACTIVATIONS, Options
from tests.helpers import peak_allocation
from tests.suite.tiers import few

MOST_BINS = bins.number(bins.OCTAVES[-1], bins.BITS[-1])
BATCH, CLASSES = 16, 4
IMPLEMENTATIONS = ["reference"]
if op.kernels.why_not(preference(torch.device("cpu"))[0], torch.device("cpu")) is None:
    IMPLEMENTATIONS.insert(0, "native")
by_impl = pytest.mark.parametrize("impl", IMPLEMENTATIONS)


def sample(*size: int, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(batch, CLASSES, *size, generator=generator)
    return x.requires_grad_(), torch.randint(CLASSES, (batch, *size), generator=generator)


def step(
    x: Tensor, target: Tensor, impl: str, number: int = MOST_BINS, activation: str = "softmax"
) -> list[Tensor]:
    """Return what one call gives for every image, and the gradient of all of it."""
    sums = lovasz(
        x,
        target,
        activation=activation,
        method="histogram",
        bins=number,
        per_image=True,
        ignore_index=1,
        cross_entropy=True,
        impl=impl,
    )
    assert sums.cross_entropy is not None
    total = (sums.loss * torch.arange(sums.loss.numel()).view_as(sums.loss)).sum()
    (grad,) = torch.autograd.grad(total + 0.1 * sums.cross_entropy.square().sum(), x)
    return [sums.loss, sums.present, sums.cross_entropy, sums.target, sums.weight, grad]


@by_impl
def test_memory_is_that_of_some_images(impl: str) -> None:
    """18 KiB of logits: the counters and tables of all images at once would take 160 MiB."""
    x, target = sample(8, 9)
    peak = peak_allocation(lambda: step(x, target, impl))
    # And a table; of the kernels, counters of each thread, too; of the definition, copies.
    own = 2**23 * (1 + torch.get_num_threads()) if impl == "native" else 0
    assert peak < (2 if impl == "native" else 6) * images.MOST + own


@by_impl
@pytest.mark.parametrize("activation", few(ACTIVATIONS, test=1))
@pytest.mark.parametrize("number", [MOST_BINS // 8, 72])
def test_an_image_gets_what_it_gets_alone(
    impl: str, activation: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the tables are kept for backward, as of few bins, or made again."""
    x, target = sample(25, 31, batch=5)
    whole = step(x, target, impl, number, activation)
    per_image = CLASSES * number * 32
    monkeypatch.setattr(images, "MOST", 2 * per_image)  # two at a time, and one
    assert not images.are_many(x[:2], _options(number, activation))
    assert images.are_many(x, _options(number, activation))
    for found, expected in zip(step(x, target, impl, number, activation), whole, strict=True):
        if impl == "native":
            assert torch.equal(found, expected)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def _options(number: int, activation: str) -> Options:
    return Options(activation, "histogram", *bins.layout(number), True, None, False)


@by_impl
def test_bad_labels_of_all_images_are_counted_together(
    impl: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MOST", 1)
    x, target = sample(4, 5, batch=4)
    target[1, 2], target[3] = 77, -5
    with pytest.raises(ValueError, match=r"got 25 other values, the first of which is 77"):
        step(x, target, impl, 72)


@by_impl
@pytest.mark.parametrize("number", [1024, 72])
def test_all_is_nan_where_nobody_may_look_at_the_labels(
    impl: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: of all images, and their gradients."""
    monkeypatch.setattr(images, "MOST", 1)
    monkeypatch.setattr(images, "must_mark", lambda *of: True)
    x, target = sample(24, 25, batch=3)
    loss, *_, grad = step(x, target, impl, number)
    assert loss.isfinite().all()
    assert grad.isfinite().all()
    target[2, 3, 3] = 9
    loss, *_, grad = step(x, target, impl, number)
    assert loss.isnan().all()
    assert grad[:, :, 0].isnan().any((1, 2)).all()


@pytest.mark.skipif("native" not in IMPLEMENTATIONS, reason="operators of the kernels")
@pytest.mark.parametrize("number", [1024, 72])
def test_opcheck(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST", CLASSES * 72 * 32)
    x, target = sample(24, 25, batch=2)
    arguments = ("sigmoid", *bins.layout(number), 2, True, "native")
    operators = torch.ops.segloss_fast
    torch.library.opcheck(operators.lovasz_images, (x, target, *arguments))
    loss, ce, _, *saved = operators.lovasz_images(x.detach(), target, *arguments)
    assert bool(saved[0].numel()) == (number == 72)
    torch.library.opcheck(
        operators.lovasz_images_backward, (loss, ce, *saved, x.detach(), target, *arguments)
    )


@pytest.mark.torch_compile
@pytest.mark.skipif("native" not in IMPLEMENTATIONS, reason="operators of the kernels")
def test_compiles_into_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST", 1)
    x, target = sample(5, 6, batch=3)
    plain = lovasz(x, target, method="histogram", bins=72, per_image=True).loss
    loss = torch.compile(
        lambda x: lovasz(x, target, method="histogram", bins=72, per_image=True).loss,
        fullgraph=True,
        backend="aot_eager",
    )(x)
    assert torch.equal(loss, plain)
    (grad,) = torch.autograd.grad(loss.sum(), x)
    assert torch.equal(grad, torch.autograd.grad(plain.sum(), x)[0])
