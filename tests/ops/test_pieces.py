"""Sums that a reference computes in pieces equal those of the whole, and so do the gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segloss_fast.ops._voxels import pieces
from segloss_fast.ops.confusion_sums import reference as confusion
from segloss_fast.ops.region_sums import ACTIVATIONS, TERMS
from segloss_fast.ops.region_sums import reference as region
from segloss_fast.ops.region_sums.options import Options
from tests.helpers import peak_allocation
from tests.suite.tiers import few

pytestmark = pytest.mark.of("reference")
SHAPES = [(3, 2, 5), (1, 3, 31), (4, 3, 3, 7), (2, 3, 3, 5, 2), (3, 2, 1), (0, 2, 3), (2, 2, 0)]
Sums = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def cut_into(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    monkeypatch.setattr(pieces, "WHOLE", 0)
    monkeypatch.setattr(pieces, "PIECE", values)


def region_sums(ignored: int | None = None, activation: str = "softmax") -> Sums:
    options = Options(TERMS, activation, activation, 1.5, ignored)
    return lambda x, t, w: region.forward(x, t, w, options)


def confusion_sums(ignored: int | None = None, activation: str = "softmax") -> Sums:
    return lambda x, t, w: confusion.forward(x, t, w, activation, ignored)


by_sums = pytest.mark.parametrize("sums", [region_sums, confusion_sums])


def draw(shape: tuple[int, ...], kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return an input, a target and weights, float64, that all want a gradient if they can."""
    torch.manual_seed(len(shape))
    x = torch.rand(shape, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, shape[1], (shape[0], *shape[2:]))
    dense = torch.rand(shape, dtype=torch.float64).requires_grad_()
    w = torch.rand(shape[0], 1, *shape[2:], dtype=torch.float64).requires_grad_()
    return x, labels if kind == "labels" else dense, w


def differentiate(sums: Sums, tensors: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
    """Return the sums and the gradients of a random combination of them."""
    found, labels = sums(*tensors)
    inputs = [tensor for tensor in tensors if tensor.requires_grad]
    factors = torch.rand(found.shape, generator=torch.Generator().manual_seed(1), dtype=found.dtype)
    return [found.detach(), labels, *torch.autograd.grad((found * factors).sum(), inputs)]


@by_sums
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["labels", "dense"])
@pytest.mark.parametrize("shape", few(SHAPES, test=3), ids=str)
@pytest.mark.parametrize("piece", [1, 4, 9])
def test_pieces_equal_the_whole(
    monkeypatch: pytest.MonkeyPatch,
    sums: Callable[..., Sums],
    activation: str,
    kind: str,
    shape: tuple[int, ...],
    piece: int,
) -> None:
    call, tensors = sums(1 if kind == "labels" else None, activation), draw(shape, kind)
    whole = differentiate(call, tensors)
    cut_into(monkeypatch, piece)
    for cut, once in zip(differentiate(call, tensors), whole, strict=True):
        torch.testing.assert_close(cut, once, rtol=1e-12, atol=1e-12)


@by_sums
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "expanded", "sliced"])
def test_layouts(monkeypatch: pytest.MonkeyPatch, sums: Callable[..., Sums], layout: str) -> None:
    values = torch.rand(2, 3, 4, 5)
    x = {
        "channels_last": lambda: values.to(memory_format=torch.channels_last),
        "transposed": lambda: values.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        "expanded": lambda: values[:, :, :1].expand(2, 3, 4, 5),
        "sliced": lambda: torch.rand(2, 3, 9, 10)[:, :, 1::2, ::2],
    }[layout]()
    w = torch.rand(2, 1, 1, 5).expand(2, 1, 4, 5)
    tensors = (x.detach().requires_grad_(), torch.randint(0, 3, (2, 5, 4)).mT, w.requires_grad_())
    whole = differentiate(sums(), tensors)
    cut_into(monkeypatch, 7)
    for cut, once in zip(differentiate(sums(), tensors), whole, strict=True):
        torch.testing.assert_close(cut, once, rtol=1e-5, atol=1e-6)


@by_sums
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_gradients_have_the_dtype_of_the_input(
    monkeypatch: pytest.MonkeyPatch, sums: Callable[..., Sums], dtype: torch.dtype
) -> None:
    cut_into(monkeypatch, 7)
    x, labels, _ = draw((2, 3, 13), "labels")
    x = x.detach().to(dtype).requires_grad_()
    found, _ = sums()(x, labels, None)
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype
    assert found.dtype == torch.float64


@by_sums
def test_the_first_of_the_labels_out_of_range(
    monkeypatch: pytest.MonkeyPatch, sums: Callable[..., Sums]
) -> None:
    """In the order of voxels, whichever piece holds it."""
    x, labels, _ = draw((3, 2, 11), "labels")
    labels[1, 9], labels[2, 0], labels[2, 10] = 7, 5, 6
    for piece in (1, 4, 11, 22, 100):
        cut_into(monkeypatch, piece)
        assert sums()(x, labels, None)[1].tolist() == [3, 7]


@by_sums
def test_second_derivatives(monkeypatch: pytest.MonkeyPatch, sums: Callable[..., Sums]) -> None:
    cut_into(monkeypatch, 4)
    x, dense, w = draw((2, 2, 5), "dense")
    call = sums() if sums is confusion_sums else _smooth
    assert torch.autograd.gradcheck(lambda *tensors: call(*tensors)[0], (x, dense, w))
    assert torch.autograd.gradgradcheck(lambda *tensors: call(*tensors)[0], (x, dense, w))


@by_sums
def test_weights_made_from_the_input(
    monkeypatch: pytest.MonkeyPatch, sums: Callable[..., Sums]
) -> None:
    """A first derivative that may be differentiated again counts each path once."""
    x, labels, _ = draw((2, 3, 9), "labels")

    def gradients(create_graph: bool) -> Tensor:
        w = x.softmax(1).amax(1, keepdim=True)
        found = sums()(x, labels, w)[0]
        return torch.autograd.grad(found.sum(), x, create_graph=create_graph)[0].detach()

    expected = gradients(False)
    cut_into(monkeypatch, 6)
    torch.testing.assert_close(gradients(False), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients(True), expected, rtol=1e-12, atol=1e-12)


@by_sums
def test_many_gradients_at_once(monkeypatch: pytest.MonkeyPatch, sums: Callable[..., Sums]) -> None:
    x, labels, _ = draw((2, 3, 9), "labels")
    found = sums(None, "sigmoid")(x, labels, None)[0].flatten()
    many = torch.eye(len(found), dtype=found.dtype)
    expected = [torch.autograd.grad(found, x, one, retain_graph=True)[0] for one in many]
    cut_into(monkeypatch, 6)
    found = sums(None, "sigmoid")(x, labels, None)[0].flatten()
    (at_once,) = torch.autograd.grad(found, x, many, is_grads_batched=True)
    torch.testing.assert_close(at_once, torch.stack(expected), rtol=1e-12, atol=1e-12)


@by_sums
def test_the_default_device_does_not_matter(sums: Callable[..., Sums]) -> None:
    x, labels, w = draw((2, 3, 512), "labels")
    expected = differentiate(sums(), (x, labels, w))
    call = sums()
    with torch.device("meta"):
        found, invalid = call(x, labels, w)
    assert found.device == invalid.device == x.device
    torch.testing.assert_close(found, expected[0])


def _smooth(x: Tensor, t: Tensor, w: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the region sums that have second derivatives everywhere."""
    terms = ("tp", "pred", "pred_sq", "target_sq", "sq_err", "sq_err_pos", "nll", "nll_neg")
    return region.forward(x, t, w, Options(terms, "softmax", "sigmoid", 0.0, None))


@by_sums
def test_transforms_and_forward_derivatives_see_the_definition(
    monkeypatch: pytest.MonkeyPatch, sums: Callable[..., Sums]
) -> None:
    x, dense, w = (tensor.detach() for tensor in draw((2, 2, 5), "dense"))
    tangent = torch.rand_like(x)

    def call(x: Tensor) -> Tensor:
        return sums(None, "sigmoid")(x, dense, w)[0]

    forward = torch.func.jvp(call, (x,), (tangent,))[1]
    cut_into(monkeypatch, 4)
    torch.testing.assert_close(torch.func.jvp(call, (x,), (tangent,))[1], forward)
    many = torch.func.vmap(call)(torch.stack([x, 2 * x / 3]))
    torch.testing.assert_close(many, torch.stack([call(x), call(2 * x / 3)]))
    with torch.autograd.forward_ad.dual_level():
        dual = call(torch.autograd.forward_ad.make_dual(x, tangent))
        found = torch.autograd.forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(found, forward)


def test_what_does_not_depend_on_the_input_has_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_into(monkeypatch, 4)
    x, labels, w = draw((2, 2, 5), "labels")
    options = Options(("target", "weight"), "softmax", "softmax", 0.0, None)
    (rows, _), (one, _) = (region.forward(x, labels, v, options) for v in (w, None))
    one.sum().backward(retain_graph=True)
    rows.sum().backward()
    assert x.grad is not None
    assert w.grad is not None
    assert bool((x.grad == 0).all())
    torch.testing.assert_close(w.grad, torch.full_like(w, 3))  # its own class, and both


@by_sums
def test_memory_is_that_of_a_piece(
    monkeypatch: pytest.MonkeyPatch, sums: Callable[..., Sums]
) -> None:
    cut_into(monkeypatch, 2**12)
    x = torch.rand(1, 4, 2**16).requires_grad_()
    labels = torch.randint(0, 4, (1, 2**16))

    def call() -> None:
        x.grad = None
        sums()(x, labels, None)[0].sum().backward()

    assert peak_allocation(call) < 2 * x.nbytes  # the definition takes ten times x, and more


@by_sums
def test_compiles_in_one_piece(monkeypatch: pytest.MonkeyPatch, sums: Callable[..., Sums]) -> None:
    cut_into(monkeypatch, 2**10)
    x, labels = torch.rand(1, 2, 2**12).requires_grad_(), torch.randint(0, 2, (1, 2**12))
    compiled = torch.compile(lambda x: sums()(x, labels, None)[0], fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), sums()(x, labels, None)[0], rtol=1e-5, atol=1e-4)


def finite_or_not(seed: int, bad: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return an input, labels and weights; a value that is not finite at some voxels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((2, 3, 2, 512), generator=generator)
    labels = torch.randint(0, 3, (2, 2, 512), generator=generator)
    if bad is not None:
        x[0, 1, 0, :7], x[1, 2, 1, 500:] = bad, bad
    return x.requires_grad_(), labels, torch.rand((2, 3, 2, 512), generator=generator)


@by_sums
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bad", [None, torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kind", ["int64", "uint8", "float32", "ignored", "dense"])
def test_shortcuts_equal_the_definition(
    monkeypatch: pytest.MonkeyPatch,
    sums: Callable[..., Sums],
    activation: str,
    bad: float | None,
    kind: str,
) -> None:
    """What is computed in the hope that all is finite, and again if not."""
    x, target, w = finite_or_not(0, bad)
    if kind == "dense":
        target = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    elif kind != "ignored":
        target = target.to(getattr(torch, kind))
    call = sums(1 if kind == "ignored" else None, activation)
    found = [differentiate(call, (x, target, v)) for v in (w, w[:, :1])]
    for module in (region, confusion):
        monkeypatch.setattr(module, "is_plain", lambda *tensors: False)
    for tensors, weight in zip(found, (w, w[:, :1]), strict=True):
        for quick, defined in zip(tensors, differentiate(call, (x, target, weight)), strict=True):
            torch.testing.assert_close(quick, defined, rtol=2e-5, atol=1e-5, equal_nan=True)
