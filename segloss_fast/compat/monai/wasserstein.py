"""MONAI's generalised Wasserstein Dice loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.loss import _Loss

from segloss_fast.compat._compiled import State, alike, in_graph, serves
from segloss_fast.compat._volumes import plain
from segloss_fast.compat.monai._base import check_reduction, reduce
from segloss_fast.compat.monai._script import Scriptable
from segloss_fast.ops._formula import trace
from segloss_fast.ops.confusion_sums import confusion_sums, graphs
from segloss_fast.ops.region_sums import read_plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

WEIGHTINGS = ("default", "GDL")
MOST_KEPT = 256  # numbers of a matrix whose factors are kept for the next call


class GeneralizedWassersteinDiceLoss(Scriptable, _Loss):
    """MONAI's GeneralizedWassersteinDiceLoss, with its arguments.

    >>> distances = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> loss = segloss_fast.compat.monai.GeneralizedWassersteinDiceLoss(distances)
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]]))
    tensor(0.5000)

    Per item ``1 - (2 T + smooth_nr) / (2 T + E + smooth_dr)``: the error of a voxel of class l is
    ``sum_c M[l, c] p_c``, p the softmax of the input and M the matrix divided by its largest
    element; E sums the errors of all voxels, T sums 1 - error over those of all classes but the
    first. With ``weighting_mode="GDL"`` every class counts in T, all sums are divided by the
    class's number of voxels plus 1, and the denominator is ``sum (2 - error)``.

    Args:
        dist_matrix: ``[C, C]``, from the true class to the predicted one.
        weighting_mode: ``"default"`` or ``"GDL"``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, over items.
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator.

    Raises:
        ValueError: If the matrix is not square, or an option is unknown.
    """

    # The last matrix and smoothing, and what was made of them; graphs do without.
    _known: tuple[Any, tuple[Tensor, Tensor]] | None = None
    _apart = ("_known",)

    def __init__(
        self,
        dist_matrix: NDArray[Any] | Tensor,
        weighting_mode: str = "default",
        reduction: Any = "mean",  # noqa: ANN401
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
    ) -> None:
        super().__init__(reduction=check_reduction(reduction))
        matrix = torch.as_tensor(dist_matrix)
        if matrix.shape[0] != matrix.shape[1]:
            raise ValueError(
                "dist_matrix must be C x C, a row and a column per class, "
                f"got {matrix.shape[0]} x {matrix.shape[1]}"
            )
        if weighting_mode not in WEIGHTINGS:
            raise ValueError(
                f"weighting_mode must be one of {list(WEIGHTINGS)}, got {weighting_mode!r}"
            )
        largest = matrix.max()
        self.m = matrix if largest == 1 else matrix / largest
        self.alpha_mode = weighting_mode
        self.num_classes = self.m.size(0)
        self.smooth_nr = float(smooth_nr)
        self.smooth_dr = float(smooth_dr)
        self._known = None

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits ``[B, C, *S]``, S of any rank, against class indices.

        Args:
            input: Logits.
            target: ``[B, *S]`` or ``[B, 1, *S]``.

        Raises:
            RuntimeError: If there are not as many classes as the matrix has, or the target has not
                a class index per voxel.
        """
        x, labels = _flat(plain(input), plain(target).detach(), self.num_classes)
        compiles = torch.compiler.is_compiling()
        if compiles:
            found = in_graph(self, _of_sums, (x, labels), _described, graphs.operator)
            if found is not None:
                return found
        sums = confusion_sums(x, labels, activation="softmax")
        return self._of(self._ratio(sums, compiles), x.dtype)

    def _of(self, ratio: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the loss of an input of a dtype, given one minus that of each item."""
        dtype = torch.promote_types(torch.promote_types(dtype, self.m.dtype), torch.float32)
        return reduce(1.0 - ratio, self.reduction).to(dtype)

    def _ratio(self, sums: Tensor, compiles: bool) -> Tensor:
        """Return one minus the loss of each item, ``[B]``.

        Args:
            sums: Of confusion_sums.
            compiles: Whether operations become one loop: else one product has both sums of an item,
                because with small images each call of torch counts.
        """
        if self.alpha_mode == "GDL":
            m = self.m.to(sums, non_blocking=True)
            # Multiplied to the sums: what is right, as a difference, would have their rounding.
            confusion, size = sums[..., :-1], sums[..., -1].detach()
            true = (((2.0 - 2.0 * m) * confusion).sum(2) / (size + 1.0)).sum(1)
            denominator = 0.5 * true + (size / (size + 1.0)).sum(1)
            return (true + self.smooth_nr) / (denominator + self.smooth_dr)
        if compiles:
            m, confusion = self.m.to(sums, non_blocking=True), sums[..., :-1]
            true = ((2.0 - 2.0 * m) * confusion)[:, 1:].sum((1, 2))
            error = (m * confusion).sum((1, 2))
            return (true + self.smooth_nr) / (true + error + self.smooth_dr)
        factors, smooth = self._factors(sums)
        numerator, denominator = torch.addmm(smooth, sums.flatten(1), factors).unbind(1)
        return numerator / denominator

    def _factors(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Return what sums are multiplied with ``[C (C + 1), 2]``, and what is added ``[2]``."""
        m = self.m
        keeps = m.numel() <= MOST_KEPT and read_plain((m, sums)) is not None and not m.requires_grad
        # By its numbers: the matrix may share the memory of an array.
        key = (m.tolist(), self.smooth_nr, self.smooth_dr, sums.dtype) if keeps else None
        if keeps and self._known is not None and self._known[0] == key:
            return self._known[1]
        with torch.inference_mode(False):
            wide = m.to(sums, non_blocking=True)
            right = 2.0 - 2.0 * wide
            right[0] = 0
            factors = functional.pad(torch.stack([right, right + wide]), (0, 1)).flatten(1).T
            smooth = [sums.new_full((1,), number) for number in (self.smooth_nr, self.smooth_dr)]
            found = factors, torch.cat(smooth)
        if keeps:
            self._known = key, found
        return found

    def wasserstein_distance_map(self, flat_proba: Tensor, flat_target: Tensor) -> Tensor:
        """Return the error of each voxel, ``[B, V]``.

        Args:
            flat_proba: ``[B, C, V]``.
            flat_target: Class indices ``[B, V]``, int64.
        """
        rows = torch.as_tensor(self.m).to(flat_proba.device)[flat_target]
        return (rows.movedim(-1, 1) * flat_proba).sum(1)


def _of_sums(loss: GeneralizedWassersteinDiceLoss, sums: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the loss given the sums, as a program is made of it."""
    return loss._of(loss._ratio(sums, compiles=True), dtype)


def _described(
    formula: Callable[..., Tensor],
    state: State,
    kinds: tuple[Any, ...],
    counts: tuple[int, int],
    setting: str,
) -> str | None:
    """Return a formula of confusion sums as text, as described does one of region_sums."""
    if not serves(kinds, setting):
        return None
    (batch, classes, *_), dtype, *_ = kinds[0]
    with alike(state, kinds, counts) as (loss, tensors, weights):

        def traced(rows: Callable[..., Tensor], _: object) -> Tensor:
            return formula(loss, rows(batch, classes, classes + 1), dtype)

        try:
            graphs.check(tensors[0], tensors[1], None)
            return graphs.write(("softmax", None), trace(traced, weights, from_rows=True))
        except Exception:  # which what is traced instead raises
            return None


# What torch.compiler.assume_constant_result sets, as in _native.
_described._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _flat(input: Tensor, target: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return ``[B, C, V]`` and ``[B, V]``, without a copy where that is possible, or raise."""
    if input.shape[1] != classes:
        raise RuntimeError(
            f"input must have the {classes} classes of dist_matrix, got shape {list(input.shape)}"
        )
    batch, _, *size = input.shape
    if target.shape[0] != batch or target.numel() * classes != input.numel():
        raise RuntimeError(
            f"target must be class indices {[batch, *size]} or {[batch, 1, *size]} for an input "
            f"{list(input.shape)}, got shape {list(target.shape)}"
        )
    if 1 <= len(size) <= 3:  # any strides go into kernels
        return input, target.reshape(batch, *size)
    return input.reshape(batch, classes, -1), target.reshape(batch, -1)
