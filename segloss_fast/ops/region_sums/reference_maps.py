"""The map of each term of region_sums, in plain differentiable PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from segloss_fast.ops._voxels.maps import (
    activate,
    clamped_log,
    clamped_log_one_minus,
    finite_or_masked,
    log_one_minus_softmax,
    power,
    sum_voxels,
)
from segloss_fast.ops.region_sums.options import Options

_NEGATIVE = frozenset({"nll", "nll_neg", "nll_all", "focal", "focal_neg"})
_LOG_TERMS = _NEGATIVE | {"nll_pow"}


class Maps:
    """Computes one term's map at a time; what several terms need is computed once."""

    def __init__(self, x: Tensor, t: Tensor, options: Options) -> None:
        self.x, self.values, self.options = x, t, options
        self._known: dict[str, Tensor] = {}

    def _once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        # Not functools.cached_property: up to Python 3.11 it takes a lock, which breaks the graph.
        if name not in self._known:
            self._known[name] = compute()
        return self._known[name]

    def _activated(self, activation: str) -> Tensor:
        return self._once(activation, lambda: activate(self.x, activation))

    @property
    def p(self) -> Tensor:
        return self._activated(self.options.activation)

    @property
    def ce_p(self) -> Tensor:
        return self._activated(self.options.ce_activation)

    @property
    def ce_q(self) -> Tensor:
        """The complement of ce_p."""
        return (-self.x).sigmoid() if self.options.ce_activation == "sigmoid" else 1 - self.ce_p

    @property
    def log_p(self) -> Tensor:
        log = {
            "softmax": lambda: self.x.log_softmax(1),
            "sigmoid": lambda: logsigmoid(self.x),
            "probabilities": lambda: clamped_log(self.x),
        }
        return self._once("log_p", log[self.options.ce_activation])

    @property
    def log_q(self) -> Tensor:
        log = {
            "softmax": lambda: log_one_minus_softmax(self.x),
            "sigmoid": lambda: logsigmoid(-self.x),
            "probabilities": lambda: clamped_log_one_minus(self.x),
        }
        return self._once("log_q", log[self.options.ce_activation])

    @property
    def others(self) -> Tensor:
        """1 - t."""
        return self._once("others", lambda: 1 - self.values)

    def row(self, name: str, w: Tensor | None) -> Tensor:
        """Return the term's sums ``[B, C]``, weighted by w."""
        if name == "weight":
            voxels = torch.ones_like(self.x) if w is None else w.expand_as(self.x)
            return sum_voxels(voxels)
        term = self._log_term(name) if name in _LOG_TERMS else self.term(name)
        sums = sum_voxels(term if w is None else w * term)
        return 0 - sums if name in _NEGATIVE else sums  # cheaper than a map with its sign changed

    def term(self, name: str) -> Tensor:
        if name in ("target", "target_sq"):
            return self.values if name == "target" else self.values.square()
        if name in ("pred", "pred_sq"):
            return self.p if name == "pred" else self.p * self.p
        if name == "tp":
            return self.p * self.values
        if name == "tp_soft":
            return torch.minimum(self.p, self.values)
        if name == "fp":
            return self.p * self.others
        if name == "fn":
            return self.values * (1 - self.p)
        error = self.p - self.values
        if name == "abs_err":
            return error.abs()
        squared = error.square()
        if name == "sq_err":
            return squared
        return (self.values if name == "sq_err_pos" else self.others) * squared

    def _log_term(self, name: str) -> Tensor:
        """Return the map of a term with a logarithm; of those that are _NEGATIVE, less than 0."""
        gamma = self.options.gamma
        if name == "nll_all":
            return self.log_p
        if name == "nll":
            return self._of_own(self.log_p)
        if name == "nll_neg":
            return self._of_others(self.log_q)
        if name == "nll_pow":
            return self.values * power(-self._of_own(self.log_p, once=True), gamma)
        if name == "focal":
            return _lessened(self._of_own(self.log_p), power(self.ce_q, gamma))
        return _lessened(self._of_others(self.log_q), power(self.ce_p, gamma))

    def _of_own(self, value: Tensor, *, once: bool = False) -> Tensor:
        """Return t times the value, or if once the value alone; where t is 0 it may be infinite."""
        masked = finite_or_masked(value, self.values)
        return masked if once else self.values * masked

    def _of_others(self, value: Tensor) -> Tensor:
        """Return 1 - t times the value, which may be infinite where t is 1."""
        return self.others * finite_or_masked(value, self.others)


def _lessened(log: Tensor, factor: Tensor) -> Tensor:
    """Return the product with a factor that is 1 where the logarithm is infinite.

    Its share in the derivative there is 0, which autograd does not find: the limit of p log p.
    """
    infinite = log == -math.inf
    return torch.where(infinite, log, factor * log.masked_fill(infinite, 0))


class TrustingMaps(Maps):
    """The same where nothing is infinite or NaN: without the masks that keep it out of sums.

    Of class indices and a sigmoid, the terms of both sides take their logarithm from one map.
    """

    def __init__(self, x: Tensor, t: Tensor, options: Options, *, labels: bool) -> None:
        super().__init__(x, t, options)
        self.labels = labels
        wanted = set(options.terms)
        both = {"nll", "nll_neg"} <= wanted or {"focal", "focal_neg"} <= wanted
        self.two_sided = labels and both and options.ce_activation == "sigmoid"

    def term(self, name: str) -> Tensor:
        # The squares of one-hot values are the same values.
        return self.values if self.labels and name == "target_sq" else super().term(name)

    def _own_focal(self) -> Tensor:
        """Return the focal term of a softmax, from each voxel's own class alone."""
        own = (self.values * self.log_p).sum(1, keepdim=True)
        # Not expm1, whose derivative here is that of a difference, without its digits.
        return self.values * (power(1 - own.exp(), self.options.gamma) * own)

    def _log_term(self, name: str) -> Tensor:
        if self.labels and name == "focal" and self.options.ce_activation == "softmax":
            return self._own_focal()
        if not self.two_sided or name in ("nll_all", "nll_pow"):
            return super()._log_term(name)
        # The logit of the voxel's own side: x where t is 1, -x where it is 0.
        z = self._once("z", lambda: self.x * (2 * self.values - 1))
        log = self._once("log_z", lambda: logsigmoid(z))
        if name.startswith("focal"):
            gamma = self.options.gamma
            log = self._once("focal_z", lambda: power((-z).sigmoid(), gamma) * log)
        return (self.others if name.endswith("_neg") else self.values) * log

    def _of_own(self, value: Tensor, *, once: bool = False) -> Tensor:
        return value if once else self.values * value

    def _of_others(self, value: Tensor) -> Tensor:
        return self.others * value
