"""Random options, predictions and targets of MONAI's losses."""

from __future__ import annotations

from torch import Tensor, float16, float32, float64, int16, int64, uint8
from torch import bool as boolean
from torch.nn.functional import one_hot

from tests.compat.grid import Draw

HEAD = {
    "include_background": (True, False),
    "reduction": ("mean", "sum", "none"),
    "batch": (True, False),
}
SMOOTH = {"smooth_nr": (0.0, 1e-5, 1.0), "smooth_dr": (1e-5, 1.0)}


def volumes(
    draw: Draw, options: dict[str, object], *, norms: bool | None = None
) -> tuple[Tensor, Tensor]:
    """Return a prediction and a target that fit each other, and set the options of both.

    ``norms`` is whether MONAI takes norms of them, which torch takes of floating-point numbers
    only; by default that is so if the options have squared_pred or soft_label.
    """
    rank, batch, classes = draw.of(1, 2, 3, 4), draw.of(1, 2, 3), draw.of(1, 2, 3, 5)
    size = draw.size(rank)
    x = draw.strided(draw.normal(batch, classes, *size, spread=draw.of(0.5, 3.0)))
    x = x.to(draw.of(float32, float32, float64, float16))
    activation = draw.of("softmax", "sigmoid", None)
    if activation is None:
        x = x.sigmoid()
    else:
        options[activation] = True
    labels = draw.labels(max(classes, 2), batch, 1, *size)
    kind = draw.of("labels", "one-hot", "soft")
    if kind == "labels" and classes > 1:
        options["to_onehot_y"] = True
        return x, labels.to(draw.of(uint8, int16, int64, float32))
    if kind == "soft":
        return x, draw.strided(draw.soft(*x.shape))
    hot = labels if classes == 1 else one_hot(labels[:, 0], classes).movedim(-1, 1)
    if norms is None:
        norms = "squared_pred" in options or "soft_label" in options
    return x, hot.to(draw.of(*((float32,) if norms else (boolean, uint8, int64, float32))))
