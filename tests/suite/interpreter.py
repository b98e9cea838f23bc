"""Triton's interpreter in a third of the time: hooks of pytest.

Of each operation of a kernel, of which there are hundreds for every program, most time goes into
what is found anew each time: what to replace in Triton's language, which the interpreter looks for
before each call of a device function and which it did as the kernel began; the types of blocks; and
whether integers overflow, which takes a dozen other operations and of which nobody is told. What
kernels compute is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tests.suite import kinds


def pytest_configure(config: pytest.Config) -> None:
    """Make the interpreter of this process fast."""
    if kinds.interpreting() and kinds.why_no_triton() is None:
        replace_once()
        remember_types()
        remember_shapes()
        check_no_overflow()


def replace_once() -> None:
    """Replace once for each kernel in the Triton versions that undo, after it, what they replaced.

    Others are left as they are.
    """
    from triton.runtime import interpreter

    if hasattr(interpreter, "_LangPatchScope") and not hasattr(interpreter, "replace_always"):
        interpreter.replace_always = interpreter._patch_lang
        interpreter._patch_lang = _once(interpreter)


def remember_types() -> None:
    """Find NumPy's type of each of Triton's once."""
    from triton.runtime import interpreter

    find = interpreter._get_np_dtype
    types: dict[str, object] = {}

    def np_dtype(dtype: Any) -> object:  # noqa: ANN401
        scalar = dtype.scalar
        if scalar.name not in types:
            types[scalar.name] = find(scalar)
        return types[scalar.name]

    interpreter._get_np_dtype = np_dtype


def remember_shapes() -> None:
    """Give all blocks of one shape one tuple of its sides, and its tensors one, too."""
    from triton.language import core
    from triton.language.semantic import TritonSemantic

    begin_block, begin_tensor = core.block_type.__init__, core.tensor.__init__
    broadcast = TritonSemantic.broadcast_impl_value
    shapes: dict[tuple[int, ...], tuple[Any, int, str]] = {}
    tensors: dict[int, dict[str, Any]] = {}  # by the identity of the tuple, which is kept

    def block(self: Any, element_ty: Any, shape: Any) -> None:  # noqa: ANN401
        sides = tuple(getattr(shape, "values", shape))
        if sides in shapes:
            self.element_ty = element_ty
            self.shape, self.numel, said = shapes[sides]
            self.name = f"<{said}, {element_ty}>"
            return
        begin_block(self, element_ty, shape)
        if all(type(side) is int for side in sides):
            shapes[sides] = self.shape, self.numel, str(self.shape)

    def tensor(self: Any, handle: Any, type: Any) -> None:  # noqa: ANN401
        key = id(type.shape) if type.is_block() else 0
        if key in tensors:
            self.__dict__.update(tensors[key], handle=handle, type=type, dtype=type.scalar)
            return
        begin_tensor(self, handle, type)
        if key == 0 or type.shape is shapes.get(tuple(type.shape.values), (None,))[0]:
            own = ("handle", "type", "dtype")
            tensors[key] = {k: value for k, value in vars(self).items() if k not in own}

    def quick_broadcast(self: Any, lhs: Any, rhs: Any) -> Any:  # noqa: ANN401
        a, b = lhs.type, rhs.type
        if a.is_block() and b.is_block() and a.shape is b.shape:
            return lhs, rhs
        return broadcast(self, lhs, rhs)

    core.block_type.__init__, core.tensor.__init__ = block, tensor
    TritonSemantic.broadcast_impl_value = quick_broadcast


def check_no_overflow() -> None:
    """Leave out what finds whether integers overflow: without debug nobody is told."""
    from triton.language.semantic import TritonSemantic

    check = TritonSemantic.binary_op_sanitize_overflow_impl

    def check_if_told(self: Any, lhs: Any, rhs: Any, binary_op: Any) -> None:  # noqa: ANN401
        if self.builder.options.debug:
            check(self, lhs, rhs, binary_op)

    TritonSemantic.binary_op_sanitize_overflow_impl = check_if_told


def _once(interpreter: ModuleType) -> Callable[[Any], object]:
    always, nothing = interpreter.replace_always, interpreter._LangPatchScope
    languages = (interpreter.tl, interpreter.tl.core)
    of_function: dict[int, frozenset[int]] = {}  # by the names that it sees
    replaced: set[int] = set()  # while a kernel runs

    def replace(fn: Any) -> object:  # noqa: ANN401
        names = fn.__globals__
        if id(names) not in of_function:
            found = (place for place, one in enumerate(languages) if one in _modules(names))
            of_function[id(names)] = frozenset(found)
        seen = of_function[id(names)]
        if replaced and seen <= replaced:
            return nothing()
        outermost = not replaced
        scope = always(fn)
        replaced.update(seen)
        if outermost:
            undo = scope.restore

            def restore() -> None:
                replaced.clear()
                undo()

            scope.restore = restore
        return scope

    return replace


def _modules(names: dict[str, object]) -> list[object]:
    return [value for value in names.values() if isinstance(value, ModuleType)]
