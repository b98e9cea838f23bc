"""The door to the kernels: operators are declared, and implementations say what they serve.

A primitive's ``op.py`` holds its :class:`Kernels` and its operators, one declaration each; the
choice of an implementation, ``segloss_fast.backends()`` and the tests read those.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any, NoReturn

import torch
from torch import Tensor

from segloss_fast import _native
from segloss_fast._impl import resolve

DISPATCHED = ("CPU", "CUDA")  # devices that have operators
# From the device, the dtype of the input and whatever else matters of a call to why it cannot be
# served, None where it can.
Limit = Callable[..., str | None]


def unlimited(device: torch.device, *of_call: Any) -> None:  # noqa: ANN401
    """Take every call."""


def no_float64(device: torch.device, dtype: torch.dtype) -> str | None:
    """Refuse float64."""
    return "the Triton kernels have no float64" if dtype == torch.float64 else None


class Implementation(ABC):
    """A way to compute a primitive beside its definition: what it serves, and why not the rest.

    Attributes:
        name: As in ``impl``.
        devices: Kinds of devices for which ``backends()`` lists it.
        limit: Why it cannot serve a call on a device where it runs.
    """

    name: str
    devices: tuple[str, ...] = ("cpu", "cuda")

    def __init__(self, limit: Limit = unlimited) -> None:
        self.limit = limit

    @abstractmethod
    def why_not(self, primitive: str, device: torch.device) -> str | None:
        """Return why it does not run on this device, None where it does."""

    @abstractmethod
    def detail(self, device: str) -> str:
        """Return what it computes with, where it runs."""

    @abstractmethod
    def step(self, primitive: str, name: str) -> Callable[..., Any]:
        """Return what computes a step of the primitive: ``"forward"``, ``"backward"``, ..."""


class Native(Implementation):
    """The kernels of the native libraries, which are operators of torch, too.

    Args:
        limit: Why they cannot serve a call.
        cuda: Whether the primitive has some in CUDA C++.
    """

    name = "native"

    def __init__(self, limit: Limit = unlimited, *, cuda: bool = True) -> None:
        super().__init__(limit)
        self.cuda = cuda

    def why_not(self, primitive: str, device: torch.device) -> str | None:
        return _native.why_no_native(primitive, device, self.cuda)

    def detail(self, device: str) -> str:
        if device == "cuda":
            build = _native.CUDA_BUILD
            assert build is not None
            return f"CUDA C++, {build['architectures']}, nvcc {build['compiler']}"
        library = _native._C
        assert library is not None
        return f"C++, {library.cpu_capability()}, {library.build_info()['compiler']}"

    def step(self, primitive: str, name: str) -> Callable[..., Any]:
        operator = f"_{primitive}" if name == "forward" else f"_{primitive}_{name}"
        # Of a single overload: torch need not look for it.
        found: Callable[..., Any] = getattr(torch.ops.segloss_fast, operator).default
        return found


class Triton(Implementation):
    """The Triton kernels: functions of the primitive's ``triton_launch``, named like the steps."""

    name = "triton"

    def why_not(self, primitive: str, device: torch.device) -> str | None:
        return _native.why_no_triton(primitive, device)

    def detail(self, device: str) -> str:
        return f"Triton {version('triton')}" + (", interpreted" if device == "cpu" else "")

    def step(self, primitive: str, name: str) -> Callable[..., Any]:
        # Not at import: triton is optional.
        module = import_module(f"segloss_fast.ops.{primitive}.triton_launch")
        found: Callable[..., Any] = getattr(module, name)
        return found


class Kernels:
    """The implementations of a primitive, beside its definition.

    Args:
        primitive: Its name, and that of its folder.
        implementations: In the order of ``backends()``.
    """

    def __init__(self, primitive: str, *implementations: Implementation) -> None:
        self.primitive = primitive
        self.implementations = {each.name: each for each in implementations}
        self._steps: dict[tuple[str, str], Callable[..., Any]] = {}

    def why_not(self, impl: str, device: torch.device, *of_call: Any) -> str | None:  # noqa: ANN401
        """Return why these kernels cannot serve such a call, None where they can.

        Args:
            impl: Which.
            device: That of the tensors.
            of_call: What the limit of these kernels looks at; nothing asks for the device alone.
        """
        asked = self.implementations.get(impl)
        if asked is None:
            return f"{self.primitive} has no {impl} kernels"
        reason = asked.why_not(self.primitive, device)
        return asked.limit(device, *of_call) if reason is None and of_call else reason

    def choose(self, impl: str, device: torch.device, *of_call: Any) -> str:  # noqa: ANN401
        """Return the implementation for a primitive that works inside others, never an error.

        The kernels that ``impl`` names are those of the primitive that the user called. Where they
        do not run here, the choice is that of ``"auto"``; where those chosen do not take the call,
        it is ``"reference"``. Arguments as for :meth:`why_not`.
        """
        named = resolve(impl, ("auto",), lambda name: None)
        tried = preference(device) if named == "auto" else (named, *preference(device))
        for name in tried:
            if name == "reference":
                break
            if self.why_not(name, device) is None:
                limit = self.implementations[name].limit
                return name if not of_call or limit(device, *of_call) is None else "reference"
        return "reference"

    def step(self, impl: str, name: str) -> Callable[..., Any]:
        """Return what computes a step by the kernels that ``impl`` names."""
        key = impl, name
        found = self._steps.get(key)
        if found is None:
            found = self.implementations[impl].step(self.primitive, name)
            self._steps[key] = found
        return found

    def passing(self, name: str) -> Callable[..., Any]:
        """Return an operator's kernel that passes its arguments, all but ``impl``, to a step."""

        def kernel(*arguments: Any) -> Any:  # noqa: ANN401
            *passed, impl = arguments
            return self.step(impl, name)(*passed)

        return kernel


def preference(device: torch.device) -> tuple[str, ...]:
    """Return the kernels that impl="auto" tries, the expected fastest first."""
    # On the CPU Triton only interprets: for tests, on request.
    return ("native",) if device.type == "cpu" else ("native", "triton")


def define(
    name: str, signature: str, kernel: Callable[..., Any], fake: Callable[..., Any]
) -> Callable[..., Any]:
    """Define an operator of torch and return it.

    Args:
        name: Its name in the namespace segloss_fast.
        signature: Its arguments and results, as in a schema.
        kernel: What computes it, on every device.
        fake: Its rule of shapes.
    """
    qualified = f"segloss_fast::{name}"
    torch.library.define(qualified, signature)
    for device in DISPATCHED:
        torch.library.impl(qualified, device, kernel)
    torch.library.register_fake(qualified, fake)
    operator: Callable[..., Any] = getattr(torch.ops.segloss_fast, name)
    return operator


def differentiate(
    kernels: Kernels, name: str, save: Callable[..., None], derivative: Callable[..., Any]
) -> None:
    """Give an operator the derivative that NAME_backward computes, which has none itself.

    Args:
        kernels: Those of the primitive.
        name: Of the operator.
        save: Saves for the derivative what it needs, as torch.library's setup_context.
        derivative: From the gradients of the results to those of the arguments.
    """

    def refuse(ctx: Any, *grads: Any) -> NoReturn:  # noqa: ANN401
        raise RuntimeError(
            f"{kernels.primitive} has no second derivative in its kernels; "
            "use impl='reference' for double backward"
        )

    torch.library.register_autograd(f"segloss_fast::{name}", derivative, setup_context=save)
    torch.library.register_autograd(f"segloss_fast::{name}_backward", refuse)


def define_both(
    kernels: Kernels,
    tensors: Sequence[str],
    options: str,
    steps: tuple[Callable[..., Any], Callable[..., Any]],
    fake: Callable[..., Any],
    grad: str = "grad",
) -> Callable[..., Any]:
    """Define a primitive's operator and the one that computes the gradient of its first tensor.

    Args:
        kernels: Those of the primitive, whose name the operator has.
        tensors: The arguments that are tensors, as in a schema; they come first.
        options: The others, as in a schema; the last is impl.
        steps: What computes forward and backward. Backward takes the gradient of the result, then
            the arguments of forward.
        fake: The rule of shapes of forward; a gradient has the shape of its tensor.
        grad: What the gradient of the result is called.
    """
    name, arguments = kernels.primitive, ", ".join([*tensors, options])
    first, others = len(tensors), len(tensors) + options.count(",")
    forward = define(name, f"({arguments}) -> Tensor", steps[0], fake)
    signature = f"(Tensor {grad}, {arguments}) -> Tensor"
    backward = define(f"{name}_backward", signature, steps[1], like_input)

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
        ctx.save_for_backward(*inputs[:first])
        ctx.options = inputs[first:]

    def derivative(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        return backward(grad, *ctx.saved_tensors, *ctx.options), *[None] * others

    differentiate(kernels, name, save, derivative)
    return forward


def like_input(grad: Tensor, input: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
    """Return a tensor of the input's shape, as the gradient is."""
    return torch.empty_like(input)


class Direct(torch.autograd.Function):
    """An operator without the dispatcher, which costs a small problem more than the kernels.

    Its first argument is how: what computes it, what saves and the derivative, as of the operator,
    and how many of the results are handed out. The derivative finds ``ctx.direct``.
    """

    @staticmethod
    def forward(ctx: Any, how: tuple[Any, Any, Any, int], *arguments: Any) -> tuple[Tensor, ...]:  # noqa: ANN401
        kernel, save, _, results = how
        output = kernel(*arguments)
        save(ctx, arguments, output)
        ctx.how = how
        found: tuple[Tensor, ...] = output[:results]
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        # Where a second derivative may follow the operator is asked, which refuses it.
        ctx.direct = not torch.is_grad_enabled()
        return None, *ctx.how[2](ctx, *grads)
