"""The CUDA kernels of lovasz as operators on the CPU: built against tests/cuda_shim."""

from __future__ import annotations

import functools

from tests.cuda_shim.operators import CSRC
from tests.machines import Machine
from tests.ops import lovasz_cases
from tests.ops.lovasz_cases import options_of as options_of

SOURCES = sorted((CSRC / "lovasz/cuda").glob("*.cu"))
# Which take longer to compile than all others: for one architecture, and without bfloat16, whose
# kernels are those of float16.
LONG = ("count", "keys", "backward")
MACHINE = Machine("lovasz", *("shim",) * 2, "cuda_shim")
# By the library that is loaded, which may be another build than the machine's own.
histogram = functools.partial(lovasz_cases.histogram, MACHINE)
sort = functools.partial(lovasz_cases.sort, MACHINE)
