"""What the fuzzers of the native kernels share: the way through the instruction sets, raw calls."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

from segloss_fast._native import _C

CAPABILITIES = ("baseline", "avx2", "avx512")
T = TypeVar("T")
answered: dict[str, bool] = {}  # by operator, whether any raw call of it was
_turn, _turns = 0, 1  # which instruction set runs, of how many


def share(cases: Iterable[T]) -> list[T]:
    """Return cases, at random, of which each instruction set of the machine gets others."""
    mixed = list(cases)
    random.Random(0).shuffle(mixed)
    return mixed[_turn::_turns]


def attempt(operator: str, *arguments: object) -> None:
    """Call a raw operator. It may refuse: an error is an answer, what the sanitizers find is not.

    They end the process, so that no finding is lost here. A call that already the schema refuses
    would try nothing.
    """
    answered.setdefault(operator, False)
    try:
        getattr(torch.ops.segloss_fast, operator)(*arguments)
        answered[operator] = True
    except RuntimeError as error:
        if "Declaration:" in str(error):
            raise


def every_instruction_set(run_all: Callable[[], None]) -> None:
    """Call a fuzzer under each instruction set of this machine, in a build with sanitizers."""
    assert _C is not None
    assert "-fsanitize=" in _C.build_info()["flags"]
    torch.manual_seed(0)
    torch.set_num_threads(2)
    best = CAPABILITIES.index(_C.cpu_capability())
    global _turn, _turns
    _turns = best + 1
    for _turn, name in enumerate(CAPABILITIES[:_turns]):
        _C.set_cpu_capability(name)
        answered.clear()
        run_all()
        # One that refuses everything has not been tried.
        assert all(answered.values()), answered
        print(f"{name}: no finding", flush=True)
