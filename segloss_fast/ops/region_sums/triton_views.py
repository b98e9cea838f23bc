"""One call of region_sums as its kernels see it: tensors, terms, what they specialise on."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from segloss_fast.ops._triton.plan import Plan
from segloss_fast.ops._triton.views import Tensors
from segloss_fast.ops.region_sums import triton_plan
from segloss_fast.ops.region_sums.options import ACTIVATIONS, Options
from segloss_fast.ops.region_sums.triton_plan import Problem
from segloss_fast.ops.region_sums.triton_terms import LOGS, REGION


class Call:
    """One call's tensors as views, and what the kernels specialise on."""

    def __init__(
        self,
        input: Tensor,
        target: Tensor,
        voxel_weight: Tensor | None,
        options: Options,
        grad: Tensor | None = None,
    ) -> None:
        shape = input.shape
        self.options = options
        self.weight = 0 if voxel_weight is None else 1
        if voxel_weight is not None and voxel_weight.shape[1] == shape[1] > 1:
            self.weight = 2
        # Kernels take all of them; what is missing has the input's strides and is not read.
        others = {
            "w": input if voxel_weight is None else voxel_weight,
            "g": input if grad is None else grad,
        }
        self.tensors = Tensors(input, target, options.ignore_index, others)
        self.acts = tuple(
            ACTIVATIONS.index(name) for name in (options.activation, options.ce_activation)
        )
        terms = triton_plan.term_set(options.terms)
        coupled = bool(
            (self.acts[0] == 0 and terms & REGION.value)
            or (self.acts[1] == 0 and terms & LOGS.value)
        )
        self.problem = Problem(
            self.tensors.batch,
            self.tensors.classes,
            self.tensors.voxels,
            input.element_size(),
            terms,
            coupled,
            self.tensors.layout,
            self.tensors.unit,
        )

    def arguments(self, plan: Plan) -> dict[str, Any]:
        """Return the arguments that describe input, target, weight, sizes and numbers."""
        views = [self.tensors.view(name, plan) for name in ("x", "t", "w")]
        return {
            **views[0],
            **views[1],
            **views[2],
            **self.tensors.sizes(plan),
            "ignore": self.tensors.ignore,
            "gamma": self.options.gamma,
        }

    def constants(self, plan: Plan) -> dict[str, Any]:
        """Return what the kernels specialise on."""
        return {
            **self.tensors.constants(plan),
            "TERMS": self.problem.terms,
            "ACT": self.acts[0],
            "CE_ACT": self.acts[1],
            "SQUARE": self.options.gamma == 2,
            "WEIGHT": self.weight,
        }
