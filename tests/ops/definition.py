"""region_sums term by term in float64, from the formulas, with scipy's special functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import special
from torch import Tensor

TERMS = (
    "tp",
    "tp_soft",
    "fp",
    "fn",
    "pred",
    "target",
    "pred_sq",
    "target_sq",
    "sq_err",
    "sq_err_pos",
    "sq_err_neg",
    "abs_err",
    "nll",
    "nll_neg",
    "nll_all",
    "nll_pow",
    "focal",
    "focal_neg",
    "weight",
)


def one_hot(labels: Tensor, classes: int, ignore_index: int | None = None) -> tuple[Tensor, Tensor]:
    """Return ``[B, C, *S]`` values and ``[B, 1, *S]`` weights of class indices ``[B, *S]``."""
    values = labels.double()[:, None]
    counted = torch.ones_like(values)
    if ignore_index is not None:
        counted = (values != ignore_index).double()
    if classes == 1:
        return (values == 1).double() * counted, counted
    return torch.cat([(values == c).double() for c in range(classes)], 1) * counted, counted


def probabilities(
    x: np.ndarray, activation: str, *, negative: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return p, log p and, if ``negative``, log(1 - p) of ``[B, C, V]``."""
    if activation == "softmax":
        total = special.logsumexp(x, axis=1, keepdims=True)
        if not negative:  # it takes as many sums as there are classes
            return special.softmax(x, axis=1), x - total, np.full_like(x, np.nan)
        others = np.stack(
            [special.logsumexp(np.delete(x, c, axis=1), axis=1) for c in range(x.shape[1])], axis=1
        )
        return special.softmax(x, axis=1), x - total, others - total
    if activation == "sigmoid":
        return special.expit(x), special.log_expit(x), special.log_expit(-x)
    with np.errstate(divide="ignore"):
        return x, np.maximum(np.log(x), -100), np.maximum(np.log1p(-x), -100)


def times(factor: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Multiply, with 0 where the factor is 0."""
    return np.where(factor == 0, 0, factor * np.where(factor == 0, 0, value))


def sums(
    input: Tensor,
    values: Tensor,
    weight: Tensor,
    *,
    activation: str,
    ce_activation: str,
    gamma: float,
    terms: Sequence[str] = TERMS,
) -> Tensor:
    """Return the rows ``[K, B, C]``."""
    x = input.double().flatten(2).numpy()
    t = values.double().flatten(2).numpy()
    w = np.broadcast_to(weight.double().flatten(2).numpy(), x.shape)
    p, _, _ = probabilities(x, activation, negative=False)
    negative = not {"nll_neg", "focal_neg"}.isdisjoint(terms)
    q, log_q, log_1q = probabilities(x, ce_activation, negative=negative)
    rest = 1 - q if ce_activation != "sigmoid" else special.expit(-x)
    maps = {
        "tp": p * t,
        "tp_soft": np.minimum(p, t),
        "fp": p * (1 - t),
        "fn": t * (1 - p),
        "pred": p,
        "target": t,
        "pred_sq": p * p,
        "target_sq": t * t,
        "sq_err": (p - t) ** 2,
        "sq_err_pos": t * (p - t) ** 2,
        "sq_err_neg": (1 - t) * (p - t) ** 2,
        "abs_err": np.abs(p - t),
        "nll": times(t, -log_q),
        "nll_neg": times(1 - t, -log_1q),
        "nll_all": -log_q,
        "nll_pow": times(t, (-log_q) ** gamma),
        "focal": times(t, -(rest**gamma) * log_q),
        "focal_neg": times(1 - t, -(q**gamma) * log_1q),
        "weight": np.ones_like(x),
    }
    return torch.from_numpy(np.stack([(w * maps[name]).sum(2) for name in terms]))
