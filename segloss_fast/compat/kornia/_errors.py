"""kornia's exceptions: its own classes where it is imported, else ones that stand for them."""

from __future__ import annotations

import sys


class BaseError(Exception):
    """What kornia raises of an argument that is wrong."""


class ShapeError(BaseError, ValueError):
    """What kornia raises of a tensor with the wrong number of dimensions."""


class TypeCheckError(BaseError, TypeError):
    """What kornia raises of an argument that is no tensor."""


def error(kind: type[BaseError], message: str) -> Exception:
    """Return an exception that those who catch kornia's catch.

    Who names one of kornia's classes has imported it.
    """
    theirs = sys.modules.get("kornia.core.exceptions")
    found: Exception = getattr(theirs, kind.__name__, kind)(message)
    return found
