"""Every family of kernels once, against its definition in float64 on the same device.

    python -m tests.gpu.check.smoke FOLDER [--device cpu --small] [--impl triton --share 0/4]

Values and gradients, whether bits repeat, labels out of range. Results go to FOLDER/smoke.jsonl as
they come; the exit status is 1 if one is wrong. Triton compiles some 140 kernels for this, a second
or two each: so many processes share its problems, each with a file of its own, and what they have
tried is not tried again.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from scipy import ndimage
from torch import Tensor

import segloss_fast
from segloss_fast import functional
from tests.gpu.check.journal import Journal, arguments, synchronize
from tests.gpu.check.problems import Loss, Problem, distance, graded, judged, kernels_of

Entry = dict[str, Any]
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
BUDGET = {F32: 1e-5, F16: 4e-3, BF16: 4e-3}  # of half precision: the gradient's own rounding
SUMS = [
    *((c, F32, False) for c in (1, 2, 4, 14, 32, 105)),
    *((c, BF16, False) for c in (4, 14)),
    (4, F32, True),
    (33, F16, True),
]
# Losses with steps beside region_sums. The budget of the gradient is ten times that of the value.
OTHERS = (
    "TopKLoss",
    "GeneralizedWassersteinDiceLoss",
    "SoftDiceClDiceLoss",
    "StructuralSimilarityLoss",
    "HausdorffDTLoss",
    "BoundaryLoss",
    "DiceFocalLoss",
    "ShapeAwareLoss",
)
VOLUMES = [
    ((64, 70, 96), (1.0, 1.0, 1.0)),
    ((20, 300, 64), (3.0, 0.8, 0.8)),
    ((1, 700, 40), (1.0,) * 3),
]


def compare(loss: Loss, problem: Problem, device: str, impl: str, grads: float = 1.0) -> Entry:
    """Compare a loss by kernels with itself by the reference, whose input is in float64."""
    x, y = problem.tensors(device)
    value, grad = graded(loss, x, y, impl=impl)
    again = graded(loss, x, y, impl=impl)
    assert torch.equal(value, again[0]), "the bits of the value do not repeat"
    assert torch.equal(grad, again[1]), "the bits of the gradient do not repeat"
    true_value, true_grad = graded(loss, x.double(), y, impl="reference")
    of_value, of_grad = distance(value, true_value), distance(grad, true_grad)
    worst = max(of_value, of_grad / grads)
    return judged(worst, BUDGET[problem.dtype], value=of_value, grad=of_grad)


def try_sums(journal: Journal, device: str, small: bool) -> None:
    """Try what most losses are made of."""
    size = (7, 10, 12) if small else (37, 40, 48)
    for impl in kernels_of("region_sums", device):
        for classes, dtype, channels_last in SUMS:
            problem = Problem(classes, size, dtype, channels_last=channels_last)
            kind = "sigmoid" if classes == 1 else "softmax"

            def loss(x: Tensor, y: Tensor, impl: str, kind: str = kind) -> Tensor:
                return functional.dice_ce_loss(x, y, impl=impl, activation=kind)

            journal.note(f"dice_ce {impl} {problem}", compare, loss, problem, device, impl)


def try_lovasz(journal: Journal, device: str, small: bool) -> None:
    """Try both methods; of the histogram the gradient is within 2.6 %, as documented."""
    size = (9, 12, 16) if small else (40, 64, 64)
    for impl in kernels_of("lovasz", device):
        for method, grads in (("histogram", 3000.0), ("sort", 10.0)):
            if (impl, method) == ("triton", "sort"):
                continue
            for classes in (2, 4, 14, 20):
                problem = Problem(classes, size)

                def loss(x: Tensor, y: Tensor, impl: str, method: str = method) -> Tensor:
                    exact = impl == "reference"
                    chosen = "sort" if exact else method
                    return functional.lovasz_softmax_loss(x, y, impl=impl, method=chosen)

                name = f"lovasz {impl} {method} {problem}"
                journal.note(name, compare, loss, problem, device, impl, grads)


def masks(size: tuple[int, ...], device: str) -> dict[str, Tensor]:
    """Return masks ``[1, 2, *size]`` with near, middling and far edges."""
    noise = torch.rand(
        (1, 2, *size), generator=torch.Generator(device).manual_seed(1), device=device
    )
    smooth = torch.nn.functional.avg_pool3d(noise, (1, 3, 3), 1, (0, 1, 1))
    point = torch.zeros_like(noise, dtype=torch.bool)
    point[..., size[0] // 2, size[1] // 3, size[2] // 4] = True
    return {"noise": noise > 0.5, "blobs": smooth > smooth.median(), "point": point}


def compare_distances(mask: Tensor, spacing: tuple[float, ...], impl: str) -> Entry:
    """Compare distances of both sides with scipy's."""
    ours = segloss_fast.distance_transform(mask, spacing, side="both", impl=impl).cpu().double()
    worst = 0.0
    for channel, plane in enumerate(mask[0].cpu().numpy()):
        sides = [ndimage.distance_transform_edt(side, spacing) for side in (plane, ~plane)]
        true = torch.from_numpy(sides[0] + sides[1])
        worst = max(worst, float((ours[0, channel] - true).abs().max() / true.max()))
    return judged(worst, 1e-6)


def try_distances(journal: Journal, device: str, small: bool) -> None:
    """Try the exact transform."""
    for impl in kernels_of("distance_transform", device):
        for size, spacing in VOLUMES:
            shrunk = tuple(max(1, length // 6) for length in size) if small else size
            for kind, mask in masks(shrunk, device).items():
                name = f"distances {impl} {kind} {shrunk}"
                journal.note(name, compare_distances, mask, spacing, impl)


def compare_components(mask: Tensor, impl: str) -> Entry:
    """Compare components with scipy's, number by number."""
    ours = segloss_fast.connected_components(mask, impl=impl).labels[0].cpu()
    full = ndimage.generate_binary_structure(3, 3)
    true = [ndimage.label(plane, full)[0] for plane in mask[0].cpu().numpy()]
    pairs = zip(ours, true, strict=True)
    return {"ok": all(torch.equal(a, torch.from_numpy(b)) for a, b in pairs)}


def compare_nearest(mask: Tensor, spacing: tuple[float, ...], impl: str) -> Entry:
    """Compare nearest labels with those of the CPU."""
    labels = mask.int().cumsum(-1, dtype=torch.int32) * mask
    ours = segloss_fast.nearest_component(labels, spacing, impl=impl).cpu()
    return {"ok": torch.equal(ours, segloss_fast.nearest_component(labels.cpu(), spacing))}


def try_labels(journal: Journal, device: str, small: bool) -> None:
    """Try components, and which of some is nearest."""
    for size, spacing in VOLUMES:
        shrunk = tuple(max(1, length // 6) for length in size) if small else size
        for kind, mask in masks(shrunk, device).items():
            for impl in kernels_of("connected_components", device):
                journal.note(f"components {impl} {kind} {shrunk}", compare_components, mask, impl)
            for impl in kernels_of("distance_transform", device):
                name = f"nearest {impl} {kind} {shrunk}"
                journal.note(name, compare_nearest, mask, spacing, impl)


def try_others(journal: Journal, device: str, small: bool) -> None:
    """Try the losses with steps of their own, by whatever kernels a user gets, and by Triton's."""
    size = (12, 14, 13) if small else (24, 28, 36)
    impls = ["auto", *kernels_of("region_sums", device)]
    for impl in (impl for impl in impls if impl != "native"):
        for name in OTHERS:
            for classes in (3, 20):
                problem = Problem(classes, size)

                def loss(x: Tensor, y: Tensor, impl: str, name: str = name) -> Tensor:
                    found: Tensor = getattr(segloss_fast, name)(impl=impl)(x, y)
                    return found

                what = f"{name} {impl} {problem}"
                journal.note(what, compare, loss, problem, device, impl, 10.0)


def is_here(impl: str) -> Entry:
    """Look for kernels of an implementation on the device."""
    return {"ok": impl in kernels_of("region_sums", "cuda")}


def refuse(device: str, impl: str) -> Entry:
    """Give a label that is no class: NaN on a device, an error on the CPU, and all goes on."""
    x, y = Problem(4, (16, 16, 16)).tensors(device)
    y[0, 0, 0, 0] = 77
    if device == "cpu":
        try:
            functional.dice_ce_loss(x, y, impl=impl)
        except ValueError:
            return {"ok": True}
        return {"ok": False}
    marked = bool(functional.dice_ce_loss(x, y, impl=impl).isnan().all())
    synchronize(device)
    return {"ok": marked}


TRIALS: tuple[Callable[[Journal, str, bool], None], ...] = (
    try_sums,
    try_lovasz,
    try_distances,
    try_labels,
    try_others,
)


class Share(Journal):
    """The journal of a process that tries a part of what there is to try.

    Args:
        options: Of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.impl = options.impl
        self.place, self.parts = map(int, options.share.split("/"))
        self.offered = 0
        name = "smoke.jsonl" if self.parts == 1 else f"smoke-{self.place}.jsonl"
        others = options.folder.glob("smoke-*.jsonl") if self.parts == 1 else ()
        super().__init__(options.folder / name, sorted(others))

    def note(self, name: str, call: Callable[..., Entry], *of_call: Any) -> None:  # noqa: ANN401
        """Try it if it is this process's."""
        if self.impl is not None and f" {self.impl} " not in f" {name} ":
            return
        self.offered += 1
        if self.offered % self.parts == self.place:
            super().note(name, call, *of_call)


def main() -> int:
    """Try all families, the main ones first."""
    warnings.simplefilter("ignore")
    options = arguments(__doc__ or "")
    journal = Share(options)
    if options.device == "cuda":
        for impl in ("native", "triton"):  # without one, its families would be passed over
            journal.note(f"{impl} kernels are here", is_here, impl)
    for trial in TRIALS:
        trial(journal, options.device, options.small)
    for impl in kernels_of("region_sums", options.device):
        journal.note(f"labels out of range {impl}", refuse, options.device, impl)
    return journal.end()


if __name__ == "__main__":
    sys.exit(main())
