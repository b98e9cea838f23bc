"""A loss's formula as a small program: its value, and its derivative, without torch's operations.

From the sums of a pass to a loss it is some thirty operations of eight numbers each, and in
backward thirty more. They take no time, but torch needs 200 us for them on the CPU, and on a GPU
each is a launch: more than the passes over the volume at the sizes of patches. So the formula is
traced once per configuration: it runs in PyTorch, on sums made up for the purpose, and what it and
its derivative do to them is written down (``recorder.py``, ``lowering.py``). The result is a list
of steps (``program.py``), elementwise operations with strides over one array of numbers, which a
short interpreter runs in one call: C++ on the CPU (``csrc/formula``), one Triton kernel on CUDA.

Why so, and not a function in C++ and a kernel per loss: a loss stays one formula, written in
PyTorch alone, which is at the same time the definition that the program is tested against, and
what serves where there is no program: another operation than those of ``lowering.py``, a number
that Python reads, a reduction to more than a number, collectives, the transforms of torch.func,
second derivatives, compilers (which fuse the operations by themselves). Views cost nothing: the
steps follow from where the tensors of the trace lie in memory. Python's floats were tried instead
of C++; for one item and four classes they are as fast, but their time grows with both.
"""

from __future__ import annotations

from segloss_fast.ops._formula.evaluation import evaluate, why_not
from segloss_fast.ops._formula.program import Program, Untraceable
from segloss_fast.ops._formula.recorder import trace

__all__ = ["Program", "Untraceable", "evaluate", "trace", "why_not"]
