"""What the generic tests know of a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from tests import oracles

Keywords = Mapping[str, Any]
REGION_ONLY = ("absent", "smooth_nr", "smooth_dr")


@dataclass(frozen=True)
class LossRecord:
    """One loss.

    Attributes:
        module: Its class.
        function: Its functional form.
        oracle: Its definition in float64 (tests/oracles.py).
        keywords: Sets of its own keywords to try; the common ones are added by the tests.
        region: Whether it takes the keywords of region losses.
        bad_keywords: Keywords that it must refuse, with the error and a part of its text.
        number: A keyword of any number above 0, which must not need a graph of its own; or none.
        tolerance: Of values and gradients in float64; larger where a float32 field weighs them.
        float32: Of float32's gradients; larger where rounding p moves them more.
        zero_if_perfect: Whether the loss of a perfect prediction is 0.
        passes: Calls of region_sums in a step.
        terms_again: Terms that those after the first may ask for.
        fewest_classes: How many it needs.
        primitives: Those whose kernels it needs.
        without: Keywords of region losses that it does not take.
        hard: Whether its targets are 0 and 1 per class, and no numbers between these.
    """

    module: type[nn.Module]
    function: Callable[..., Tensor]
    oracle: Callable[[oracles.Volume], Tensor]
    keywords: tuple[Keywords, ...]
    region: bool
    bad_keywords: tuple[tuple[Keywords, type[Exception], str], ...] = field(default=())
    number: str = "smooth_nr"
    tolerance: float = 1e-12
    float32: float = 2e-6
    zero_if_perfect: bool = True
    passes: int = 1
    terms_again: tuple[str, ...] = ("target", "weight")
    fewest_classes: int = 1
    primitives: tuple[str, ...] = ("region_sums",)
    without: tuple[str, ...] = ()
    hard: bool = False

    def accepts(self, keywords: Keywords) -> dict[str, Any]:
        """Return those of some common keywords that it takes."""
        missing = self.without if self.region else REGION_ONLY
        return {name: value for name, value in keywords.items() if name not in missing}

    @property
    def name(self) -> str:
        """Its class's name."""
        return self.module.__name__
