"""segmentation-models-pytorch's FocalLoss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from segloss_fast._check import widen
from segloss_fast.compat._planned import planned
from segloss_fast.compat._volumes import can_look, comparable, plain, result_dtype
from segloss_fast.compat.smp._base import (
    check_class_weights,
    check_mode,
    in_line,
    item_sums,
    tensors,
    weighed,
)
from segloss_fast.compat.smp._functional import focal_loss_with_logits, focal_maps, to_tensor
from segloss_fast.compat.smp.constants import BINARY_MODE, MULTICLASS_MODE
from segloss_fast.ops._voxels.maps import row_dtype

__all__ = ["FocalLoss"]

_LINEAR = ["focal", "focal_neg"]
# The rows of sums that are those of (1 - q)^gamma, of a target of 0 and 1.
_TERM_SUMS = {0: "weight", 1: "abs_err", 2: "sq_err"}


class FocalLoss(_Loss):
    """segmentation-models-pytorch's FocalLoss, with its arguments.

    >>> loss = segloss_fast.compat.smp.FocalLoss("multiclass")
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]]))
    tensor(0.1733)

    Every class is a binary problem of its own, with a sigmoid: per class, over the whole batch, the
    mean of ``a (1 - q)^gamma nll``, nll the binary cross-entropy, q = exp(-nll) and a = alpha t +
    (1 - alpha) (1 - t); and their mean over the classes.

    Args:
        mode: ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
        alpha: The weight of the target 1; a = 1 if None.
        gamma: The exponent.
        ignore_index: Voxels with this label do not count.
        from_logits: Whether the input holds logits; else the sigmoid is not taken, or in the
            multiclass mode taken of the logarithm.
        eps: How far probabilities are kept from 0 and 1 without ``from_logits``.
        reduction: ``"mean"`` or ``"sum"`` of each class; ``"batchwise_mean"`` sums over the items;
            any other gives the loss of every voxel in the binary mode, else the mean of all.
        normalized: Whether to divide by the class's sum of (1 - q)^gamma.
        reduced_threshold: Where given, (1 - q) / reduced_threshold has the exponent, and where q is
            below it 1 is the factor.
        class_weights: A weight for each class: the mean is the weighted mean.

    Raises:
        AssertionError: If the mode is unknown.
        ValueError: If class weights are given in the binary mode.
    """

    def __init__(
        self,
        mode: str,
        alpha: float | None = None,
        gamma: float | None = 2.0,
        ignore_index: int | None = None,
        from_logits: bool = True,
        eps: float = 1e-7,
        reduction: str | None = "mean",
        normalized: bool = False,
        reduced_threshold: float | None = None,
        class_weights: Sequence[float] | Tensor | None = None,
    ) -> None:
        check_mode(mode)
        super().__init__()
        check_class_weights(mode, class_weights)
        self.mode = mode
        self.from_logits = from_logits
        self.ignore_index = ignore_index
        self.reduction = reduction  # type: ignore[assignment]
        self.eps = eps
        self.focal_loss_fn = partial(
            focal_loss_with_logits,
            alpha=alpha,
            gamma=gamma,  # type: ignore[arg-type]
            reduced_threshold=reduced_threshold,
            reduction=reduction,  # type: ignore[arg-type]
            normalized=normalized,
        )
        self.class_weights = to_tensor(class_weights, dtype=torch.float)

    @planned
    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the loss, a scalar of y_pred's dtype.

        Args:
            y_pred: ``[B, C, *S]``.
            y_true: ``[B, *S]`` or ``[B, 1, *S]``; in the multi-label mode ``[B, C, *S]``.
        """
        y_pred = plain(y_pred)
        y_pred, y_true = tensors(y_pred, plain(y_true).to(y_pred.device))
        self._check_sizes(y_pred, y_true)
        fn = self.focal_loss_fn
        own = getattr(fn, "func", None) is focal_loss_with_logits
        dtype = result_dtype(y_pred, self.class_weights)
        if own and fn.keywords["reduction"] in ("mean", "sum"):
            found = self._by_sums(y_pred, y_true)
            if found is not None and self.class_weights is None and found[0] == _LINEAR:
                return weighed(found[1], self._weights(y_pred)).to(dtype)
            sums = self._by_maps(y_pred, y_true) if found is None else self._parts(*found, y_pred)
            loss = self._of_sums(*sums)
            loss = loss.squeeze(0) if self.mode == BINARY_MODE else loss
        else:
            loss = self._class_by_class(widen(y_pred) if own else y_pred, y_true)
        if self.mode == BINARY_MODE:
            return loss.to(dtype)
        if self.class_weights is None:
            return loss.mean().to(dtype)
        weights = self.class_weights.to(loss.device, non_blocking=True)
        mean: Tensor = (loss * weights).sum() / weights.sum()
        return mean.to(dtype)

    def _of_sums(self, loss: Tensor, term: Tensor, number: Tensor | int) -> Tensor:
        """Return the loss of each class, given what _by_maps or _parts returns."""
        options = self.focal_loss_fn.keywords
        if options["normalized"]:
            loss = loss / term.clamp_min(options.get("eps", 1e-6))
        if options["reduction"] != "mean":
            return loss
        if isinstance(number, int):
            return loss / number
        # NaN where nothing counts, and without a gradient that is NaN, too.
        return torch.where(number > 0, loss / number.clamp_min(1), torch.nan)

    def _check_sizes(self, y_pred: Tensor, y_true: Tensor) -> None:
        if self.mode == BINARY_MODE:
            fits = y_true.numel() == y_pred.numel()
        elif self.mode == MULTICLASS_MODE:
            shape = (y_pred.shape[0], *y_pred.shape[2:])
            fits = y_true.shape in (shape, (shape[0], 1, *shape[1:]))
        else:
            fits = y_true.shape == y_pred.shape
        if fits:
            return
        error = ValueError if self.ignore_index is None else IndexError
        if self.mode not in (BINARY_MODE, MULTICLASS_MODE) and y_true.dim() == y_pred.dim():
            error = IndexError if y_true.shape[1] < y_pred.shape[1] else error
        raise error(
            f"y_true must fit y_pred of shape {list(y_pred.shape)} in mode {self.mode!r}, got "
            f"shape {list(y_true.shape)}"
        )

    def _by_sums(self, y_pred: Tensor, y_true: Tensor) -> tuple[list[str], Tensor] | None:
        """Return names of sums, and rows ``[K, I, C]`` of them and perhaps others; or None."""
        options = self.focal_loss_fn.keywords
        gamma, normalized = options["gamma"], options["normalized"]
        if gamma is None:
            raise TypeError("gamma must be a number, got None")
        term = _TERM_SUMS.get(gamma, "")
        if gamma < 0 or options["reduced_threshold"] is not None or (normalized and not term):
            return None
        # Numbers between 0 and 1 have another loss than is summed. There are none if the squares
        # add up to the same, which only the host can look at.
        unsure = y_true.is_floating_point() and self.mode != MULTICLASS_MODE
        if unsure and (y_true.requires_grad or not can_look(y_true)):
            return None
        terms = [*_LINEAR]
        if self.ignore_index is not None or (normalized and term == "weight"):
            terms.append("weight")
        if normalized and term not in terms:
            terms.append(term)
        x, activation = self._activation(y_pred)
        all_terms = [*terms, "target", "target_sq"] if unsure else terms
        how = {"gamma": gamma, "ignore_index": self.ignore_index, "unit": True}
        try:
            rows = item_sums(x, y_true, self.mode, activation, all_terms, **how)
        except ValueError:  # labels of no class, numbers outside [0, 1]: the peer takes any
            if not can_look(y_true):
                raise
            return None
        if not unsure:
            return terms, rows
        found = rows.detach()
        return (terms, rows) if torch.equal(found[-1], found[-2]) else None

    def _weights(self, y_pred: Tensor) -> tuple[float, float]:
        """Return what focal and focal_neg are multiplied by, where all voxels count."""
        options = self.focal_loss_fn.keywords
        alpha, classes = options["alpha"], 1 if self.mode == BINARY_MODE else y_pred.shape[1]
        number = y_pred.numel() if options["reduction"] == "mean" else classes
        positive, negative = (1, 1) if alpha is None else (alpha, 1 - alpha)
        factor = 1 / number if number else math.nan
        return positive * factor, negative * factor

    def _parts(
        self, terms: list[str], rows: Tensor, y_pred: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | int]:
        """Return what _by_maps does, given what _by_sums returns."""
        options, found = self.focal_loss_fn.keywords, dict(zip(terms, rows.sum(1), strict=False))
        alpha = options["alpha"]
        loss = found["focal"] + found["focal_neg"]
        if alpha is not None:
            loss = alpha * found["focal"] + (1 - alpha) * found["focal_neg"]
        term = found.get(_TERM_SUMS.get(options["gamma"], ""), loss)
        if self.ignore_index is not None:
            return loss, term, found["weight"].detach()
        return loss, term, y_pred.numel() // (1 if self.mode == BINARY_MODE else y_pred.shape[1])

    def _activation(self, y_pred: Tensor) -> tuple[Tensor, str]:
        """Return what region_sums activates, and how."""
        if self.from_logits:
            return y_pred, "sigmoid"
        clamped = y_pred.clamp(self.eps, 1 - self.eps)
        if self.mode == MULTICLASS_MODE:
            return clamped.log(), "sigmoid"
        return clamped, "probabilities"

    def _logits(self, y_pred: Tensor) -> Tensor:
        x, activation = self._activation(y_pred)
        return torch.logit(x) if activation == "probabilities" else x

    def _by_maps(self, y_pred: Tensor, y_true: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return per class the sums of the loss, of (1 - q)^gamma, and of what counts, ``[C]``."""
        options = self.focal_loss_fn.keywords
        x, t = self._logits(y_pred), y_true
        if self.mode == BINARY_MODE:
            x, t = in_line(x, t)
        elif self.mode == MULTICLASS_MODE:
            t = t.reshape(x.shape[0], 1, *x.shape[2:])
        label = comparable(self.ignore_index, t)
        ignored = None if label is None else t.eq(label)
        if self.mode == MULTICLASS_MODE:
            t = t == torch.arange(x.shape[1], device=x.device).view(-1, *[1] * (x.dim() - 2))
        if ignored is not None:
            x, t = x.masked_fill(ignored, 0), t.masked_fill(ignored, 0)
        loss, term = focal_maps(
            widen(x), t, options["gamma"], options["alpha"], options["reduced_threshold"]
        )
        number = torch.ones_like(x)
        if ignored is not None:
            loss, term, number = (each.masked_fill(ignored, 0) for each in (loss, term, number))
        over, wide = [0, *range(2, x.dim())], row_dtype(x.device)
        sums = [each.sum(over, dtype=wide) for each in (loss, term, number)]
        return sums[0], sums[1], sums[2]

    def _class_by_class(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the function's value for each class, of what counts: whatever it returns."""
        x = self._logits(y_pred)
        if self.mode == BINARY_MODE:
            return self._of_counted(x.reshape(-1), y_true.reshape(-1), y_true.reshape(-1))
        if self.mode == MULTICLASS_MODE:
            labels = y_true.reshape(x.shape[0], *x.shape[2:])
            parts = [(x[:, c], (labels == c).long(), labels) for c in range(x.shape[1])]
        else:
            parts = [(x[:, c], y_true[:, c], y_true[:, c]) for c in range(x.shape[1])]
        return torch.stack([self._of_counted(*part) for part in parts])

    def _of_counted(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        if self.ignore_index is not None:
            kept = labels != self.ignore_index
            x, t = x[kept], t[kept]
        return self.focal_loss_fn(x, t)
