"""nnU-Net's wrapper for deep supervision."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from segloss_fast.compat.nnunet._sums import FromSums


class DeepSupervisionWrapper(nn.Module):
    """nnU-Net's DeepSupervisionWrapper, with its arguments.

    >>> nnunet = segloss_fast.compat.nnunet
    >>> loss = nnunet.DeepSupervisionWrapper(nnunet.RobustCrossEntropyLoss(), [1.0, 0.5, 0.0])
    >>> levels = [torch.zeros(1, 2, n) for n in (4, 2, 1)]
    >>> loss(levels, [torch.zeros(1, 1, n) for n in (4, 2, 1)])
    tensor(1.0397)

    ``sum_i weight_factors[i] * loss(arguments_i)``, without the levels whose weight is 0. The sums
    of all levels of a loss of this module come from one launch, where the loss is formed from sums.

    Args:
        loss: Called with the i-th of each list.
        weight_factors: A number per level.

    Raises:
        AssertionError: If all weights are 0; when called, if an argument is no list.
        TypeError: If there are no weights.
    """

    def __init__(self, loss: nn.Module, weight_factors: Iterable[float] | None = None) -> None:
        super().__init__()
        if weight_factors is None:
            raise TypeError("weight_factors must hold a number per level, got None")
        self.weight_factors = tuple(weight_factors)
        assert any(weight != 0 for weight in self.weight_factors), (
            f"weight_factors must not all be 0, got {self.weight_factors}"
        )
        self.loss = loss

    def forward(self, *args: list[Any] | tuple[Any, ...]) -> Tensor:
        """Return the weighted sum of the losses.

        Args:
            *args: Lists or tuples: the outputs, the targets, and what else the loss takes.
        """
        assert all(isinstance(levels, (list, tuple)) for levels in args), (
            f"arguments must be lists or tuples, got {[type(levels).__name__ for levels in args]}"
        )
        calls = list(zip(*args, strict=False))
        factors = self.weight_factors
        if factors is None:  # set by hand
            factors = (1,) * len(calls)
        chosen = [
            (float(factors[level]), arguments)
            for level, arguments in enumerate(calls)
            if factors[level] != 0
        ]
        found = None
        if len(chosen) > 1 and isinstance(self.loss, FromSums):
            found = self.loss.levels([arguments for _, arguments in chosen])
        if found is None:
            found = [self.loss(*arguments) for _, arguments in chosen]
        pairs = zip(chosen, found, strict=True)
        total: Tensor = sum(factor * value for (factor, _), value in pairs)  # type: ignore[assignment]
        return total
