"""segmentation-models-pytorch's LovaszLoss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from segloss_fast.compat._volumes import can_look, comparable, flat, result_dtype
from segloss_fast.compat.smp._base import check_mode, in_line, tensors
from segloss_fast.compat.smp.constants import BINARY_MODE, MULTICLASS_MODE, MULTILABEL_MODE
from segloss_fast.ops.lovasz import lovasz

__all__ = ["LovaszLoss"]


class LovaszLoss(_Loss):
    """segmentation-models-pytorch's LovaszLoss, with its arguments.

    >>> loss = segloss_fast.compat.smp.LovaszLoss("multiclass")
    >>> loss(torch.zeros(1, 2, 4, 4), torch.eye(4, dtype=torch.long)[None])
    tensor(0.5000)

    The multiclass mode is the Lovász extension of the Jaccard loss of the softmax, its mean over
    the classes that the target has. The other modes are its hinge, ``max(0, 1 - x (2 t - 1))``,
    where all classes are one problem together. See :func:`segloss_fast.lovasz`: exact below 2^18
    voxels, by bins above. Targets of the hinge that are neither 0 nor 1 get the sum over the sorted
    errors in plain PyTorch; on a GPU, where nobody looks at them, they make the loss NaN.

    Args:
        mode: ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
        per_image: Whether each item has a loss of its own, and the mean of all is returned; else
            the batch is pooled.
        ignore_index: Voxels with this label do not count.
        from_logits: Not used: the input always holds logits.

    Raises:
        AssertionError: If the mode is unknown.
    """

    def __init__(
        self,
        mode: str,
        per_image: bool = False,
        ignore_index: int | None = None,
        from_logits: bool = True,
    ) -> None:
        check_mode(mode)
        super().__init__()
        self.mode = mode
        self.ignore_index = ignore_index
        self.per_image = per_image

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            y_pred: Logits ``[B, C, *S]``.
            y_true: ``[B, *S]`` or ``[B, 1, *S]``; in the multi-label mode ``[B, C, *S]``.
        """
        y_pred, y_true = tensors(y_pred, y_true)
        self._check_sizes(y_pred, y_true)
        if self.mode == MULTICLASS_MODE:
            labels = y_true.reshape(y_pred.shape[0], *y_pred.shape[2:])
            return self._softmax(flat(y_pred, 2), flat(labels, 1)).to(result_dtype(y_pred))
        dtype = torch.promote_types(result_dtype(y_pred), torch.float32)
        return self._hinge(y_pred, y_true).to(dtype)

    def _check_sizes(self, y_pred: Tensor, y_true: Tensor) -> None:
        if self.mode not in (BINARY_MODE, MULTICLASS_MODE, MULTILABEL_MODE):
            raise ValueError(f"Wrong mode {self.mode}.")
        numbers = y_pred.numel()
        if self.mode == MULTICLASS_MODE:
            numbers //= max(y_pred.shape[1], 1)
        if y_true.numel() != numbers or y_true.shape[0] != y_pred.shape[0]:
            masks = self.ignore_index is not None and y_true.numel() != numbers
            raise (IndexError if masks else RuntimeError)(
                f"y_true must hold {numbers} numbers in mode {self.mode!r} for y_pred of shape "
                f"{list(y_pred.shape)}, got shape {list(y_true.shape)}"
            )

    def _softmax(self, x: Tensor, labels: Tensor) -> Tensor:
        ignored, classes = comparable(self.ignore_index, labels), x.shape[1]
        try:
            sums = lovasz(x, labels, per_image=self.per_image, ignore_index=ignored)
        except ValueError:
            if classes == 1 or not can_look(labels):
                raise
            x, labels = _with_no_class(x, labels, ignored)
            sums = lovasz(x, labels, per_image=self.per_image, ignore_index=ignored)
        loss, present = sums.loss[:, :classes], sums.present[:, :classes].to(sums.loss)
        # Multiplied, not selected, so that a NaN still shows.
        return ((loss * present).sum(1) / present.sum(1).clamp_min(1)).mean()

    def _hinge(self, x: Tensor, t: Tensor) -> Tensor:
        x, t = in_line(x, t, x.shape[0] if self.per_image else 1)
        ignored, wrong = comparable(self.ignore_index, t), None
        if t.dtype != torch.bool:
            others = (t != 0) & (t != 1)
            wrong = (others if ignored is None else others & (t != ignored)).any()
            if can_look(t):
                if wrong:
                    return _hinge_of_any(x, t, ignored)
                wrong = None
        sums = lovasz(x, t, activation="hinge", per_image=self.per_image, ignore_index=ignored)
        loss = sums.loss.mean()
        return loss if wrong is None else torch.where(wrong, torch.nan, loss)


def _with_no_class(x: Tensor, labels: Tensor, ignored: int | None) -> tuple[Tensor, Tensor]:
    """Return logits with one more class, which nothing is, and its label where labels are none.

    Those are background of all classes.
    """
    whole = labels.to(torch.int64)
    wrong = (whole < 0) | (whole >= x.shape[1]) | (whole != labels)
    wrong = wrong if ignored is None else wrong & (labels != ignored)
    nothing = torch.full_like(x[:, :1], torch.finfo(x.dtype).min)
    return torch.cat([x, nothing], 1), whole.masked_fill(wrong, x.shape[1])


def _hinge_of_any(x: Tensor, t: Tensor, ignored: int | None) -> Tensor:
    """Return the hinge of a target of any numbers, as if they were shares of 1."""
    values = t.flatten(1).double()
    errors = 1 - x.flatten(1).double() * (2 * values - 1)
    if ignored is not None:
        gone = t.flatten(1) == ignored
        errors, values = errors.masked_fill(gone, -torch.inf), values.masked_fill(gone, 0)
    errors, order = errors.sort(1, descending=True)
    values = values.gather(1, order)
    total = values.sum(1, keepdim=True)
    jaccard = 1 - (total - values.cumsum(1)) / (total + (1 - values).cumsum(1))
    steps = torch.diff(jaccard, dim=1, prepend=torch.zeros_like(total))
    return (errors.relu() * steps).sum(1).mean()
