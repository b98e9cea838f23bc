"""Problems for the tests of confusion_sums, and their answers in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops.confusion_sums import confusion_sums
from tests.helpers import relative_l2
from tests.machines import Machine

EPSILON = torch.finfo(torch.float32).eps
IGNORED = 99
KINDS = ("labels", "ignored", "dense")
WEIGHTS = ("none", "shared", "classes")
ACTIVATIONS = ("softmax", "sigmoid", "probabilities")


@dataclass(frozen=True)
class Case:
    """A call of confusion_sums.

    Attributes:
        x: ``[B, C, *S]``.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        weight: ``[B, 1 or C, *S]``, or None.
        activation: One of ACTIVATIONS.
        ignore_index: The label of ignored voxels, or None.
    """

    x: Tensor
    target: Tensor
    weight: Tensor | None = None
    activation: str = "softmax"
    ignore_index: int | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Case:
        """Return the case with its tensors changed."""
        weight = None if self.weight is None else change(self.weight)
        return replace(self, x=change(self.x), target=change(self.target), weight=weight)

    def solve(self, impl: str, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the sums, and the gradient of a random combination of them, by an implementation.

        Args:
            impl: Which.
            x: What stands for the input, if another.
        """
        options: dict[str, Any] = {"voxel_weight": self.weight, "activation": self.activation}
        options |= {"ignore_index": self.ignore_index, "impl": impl}
        return gradient(
            lambda x: confusion_sums(x, self.target, **options), self.x if x is None else x
        )

    def values(self) -> Tensor:
        """Return the target as values, in float64."""
        if self.target.dim() == self.x.dim():
            return self.target.double()
        shape = (1, -1, *[1] * (self.x.dim() - 2))
        classes = torch.arange(self.x.shape[1], device=self.x.device).view(shape)
        counted = self.target[:, None] != self.ignore_index
        return ((self.target.double()[:, None] == classes) & counted).double()


def definition(
    x: Tensor, t: Tensor, w: Tensor | None = None, activation: str = "softmax"
) -> Tensor:
    """Return the sums of a dense target, in float64."""
    x, t = x.double().flatten(2), t.double().flatten(2)
    if w is not None:
        t = t * w.double().flatten(2)
    p = {"softmax": x.softmax(1), "sigmoid": x.sigmoid(), "probabilities": x}[activation]
    return torch.cat([torch.einsum("blv,bcv->blc", t, p), t.sum(2, keepdim=True)], 2)


def gradient(sums: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums, and the gradient of a random combination of them.

    Not one of nearly equal factors, in whose softmax derivative nearly all would cancel.
    """
    leaf = x.detach().requires_grad_()
    value = sums(leaf)
    factors = torch.randn(value.shape, generator=torch.Generator().manual_seed(3))
    (grad,) = torch.autograd.grad((value * factors.to(value)).sum(), leaf)
    return value.detach(), grad


def case_of(
    classes: int,
    size: tuple[int, ...],
    kind: str = "labels",
    weight: str = "none",
    activation: str = "softmax",
) -> Case:
    """Return a random problem of two items."""
    generator = torch.Generator().manual_seed(classes)
    x = 3 * torch.randn((2, classes, *size), generator=generator)
    x = x.sigmoid() if activation == "probabilities" else x
    target = torch.randint(0, classes, (2, *size), generator=generator)
    if kind == "ignored":
        target[torch.rand(target.shape, generator=generator) < 0.3] = IGNORED
    if kind == "dense":
        target = torch.rand(x.shape, generator=generator)
    channels = {"none": 0, "shared": 1, "classes": classes}[weight]
    w = torch.randn((2, channels, *size), generator=generator) if channels else None
    return Case(x, target, w, activation, IGNORED if kind == "ignored" else None)


def answer(case: Case) -> tuple[Tensor, Tensor]:
    """Return the sums and the gradient by definition, in float64."""
    t, w = case.values(), None if case.weight is None else case.weight.double()
    return gradient(lambda x: definition(x, t, w, case.activation), case.x.double())


def check(machine: Machine, case: Case) -> tuple[Tensor, Tensor]:
    """Solve a problem and compare with the definition in float64.

    The sums to ten roundings of what their terms add up to, signs aside; the gradient to five, and
    as much more as plain PyTorch in float32 is off. Both of float64 to 1e-13 of the whole.
    """
    case = case.each(machine.place)
    found, grad = case.solve(machine.impl)
    truth, true_grad = answer(case)
    assert found.device.type == machine.device
    assert found.dtype == torch.float64
    assert grad.dtype == case.x.dtype
    if machine.impl != "reference":
        assert grad.stride() == torch.empty_like(case.x).stride()
    if case.x.dtype == torch.float64:
        assert relative_l2(found, truth) < 1e-13
        assert relative_l2(grad, true_grad) < 1e-13
        return found, grad
    w = None if case.weight is None else case.weight.double().abs()
    terms = definition(case.x, case.values(), w, case.activation)
    row = terms[..., :-1].amax(2, keepdim=True)
    allowed = 10 * EPSILON * torch.cat([row.expand_as(terms[..., :-1]), terms[..., -1:]], 2)
    off = (found - truth).abs() - allowed
    assert bool((off <= 0).all()), f"sums are off by {off.max().item():.3g} more than allowed"
    _, plain = case.solve("reference", case.x.float())
    budget = 5 * EPSILON + relative_l2(plain, true_grad)
    if grad.dtype != torch.float32:  # the interpreter truncates to bfloat16, others round
        budget += torch.finfo(grad.dtype).eps * (1 if grad.dtype == torch.bfloat16 else 0.5)
    assert relative_l2(grad, true_grad) <= budget, relative_l2(grad, true_grad) / EPSILON
    return found, grad


def in_best_dtype(machine: Machine, case: Case) -> Case:
    """Return the case in float64 where the machine has it, in float32 elsewhere."""
    has_float64 = torch.float64 in machine.dtypes
    return replace(case, x=case.x.to(torch.float64 if has_float64 else torch.float32))


def far_apart(what: str) -> tuple[Case, Case]:
    """Return a case with a stride beyond 2^31 elements, and the same one without it.

    Only the used pages of its memory exist.
    """
    far = 2**31 + 8
    case = case_of(2, (2, 4), "labels" if what == "target" else "dense", "classes").each(
        lambda tensor: tensor if tensor.dtype == torch.int64 else tensor.half()
    )
    if what == "target":
        case = replace(case, target=case.target.to(torch.uint8))
    tensor = getattr(case, what)
    storage = torch.UntypedStorage((far + 64) * tensor.itemsize)
    whole = torch.empty(0, dtype=tensor.dtype).set_(storage, 0, (far + 64,), (1,))
    strides = (far, *tensor.stride()[1:])
    changed: dict[str, Any] = {what: whole.as_strided(tensor.shape, strides).copy_(tensor)}
    return replace(case, **changed), case
