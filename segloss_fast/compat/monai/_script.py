"""TorchScript of the drop-ins: it compiles MONAI's class with the state of ours."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from torch import nn

from segloss_fast.compat.monai._names import MODULE_OF, original

_PACKAGE = __name__.rpartition(".")[0]


class Scriptable:
    """What makes ``torch.jit.script`` take a drop-in, the first base of each.

    TorchScript compiles Python's source, which here leads into operators that it does not know. So
    it is given a module of MONAI's class with the attributes, buffers and submodules of this one,
    which are MONAI's. The values are MONAI's, and so are time and memory.
    """

    def __prepare_scriptable__(self) -> Any:  # noqa: ANN401
        """Return a module of MONAI's class; a copy of this if a subclass has its own forward.

        Raises:
            ImportError: If MONAI is not installed.
        """
        kind = drop_in(type(self))
        if type(self).forward is not kind.forward:  # type: ignore[attr-defined]
            own: Any = copy.copy(self)
            # Not the drop-in's, whose names torch does not resolve; torch passes over an empty one.
            own.__annotations__ = inspect.get_annotations(type(self)) or {"training": bool}
            return own
        try:
            peer = original(kind.__name__)
        except ImportError as error:
            raise ImportError(
                f"torch.jit.script compiles MONAI's {kind.__name__} in place of "
                f"{kind.__module__}.{kind.__name__}, so it needs MONAI (pip install monai)"
            ) from error
        twin: Any = object.__new__(peer)
        # The dictionaries of submodules are copied because torch writes the twins of those in them.
        twin.__dict__.update(
            {
                name: copy.copy(value) if name in ("_modules", "_buffers", "_parameters") else value
                for name, value in self.__dict__.items()
            }
        )
        return twin


def drop_in(kind: type) -> type[nn.Module]:
    """Return the drop-in that a class is, or that it is a subclass of."""
    for base in kind.__mro__:
        if base.__name__ in MODULE_OF and base.__module__.startswith(f"{_PACKAGE}."):
            return base
    raise TypeError(f"{kind.__name__} is no drop-in of one of MONAI's losses")
