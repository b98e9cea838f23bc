"""What the benchmark of distance_transform compares: masks, our kernels, scipy's and edt's."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import Effort, Timing, interleave
from benchmarks.provenance import THREADS
from segloss_fast import distance_transform

MASKS = ("ball", "background", "blobs", "noise", "seeds", "voxel")
TISSUES = {"gray matter": 2, "white matter": 3}  # of the demo's head
HEAD = (197, 233, 189)  # its size at 1 mm
CONTENDERS = ("native", "edt", "scipy")


@dataclass(frozen=True)
class Case:
    """A mask, the distances inside of which are measured.

    Attributes:
        mask: One of MASKS or of TISSUES. ``"ball"``: the inside of one,
            ``"background"``: its outside.
            ``"blobs"``: half of the volume, smooth. ``"noise"``: half of the voxels, at random.
            ``"seeds"``: all but one voxel in 10,000. ``"voxel"``: all but one. Tissues have the
            size HEAD.
        size: Voxels along each axis.
        spacing: Of the axes.
        contenders: Those to compare.
    """

    mask: str
    size: tuple[int, ...]
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    contenders: tuple[str, ...] = CONTENDERS

    @property
    def kind(self) -> str:
        """The mask and its spacing, like ``blobs 3x0.8x0.8``."""
        if set(self.spacing) == {1.0}:
            return self.mask
        return f"{self.mask} {'x'.join(f'{w:g}' for w in self.spacing)}"

    @property
    def name(self) -> str:
        """The case as an identifier."""
        return f"{'x'.join(map(str, self.size))}-{self.kind.replace(' ', '-')}"


def make_mask(case: Case) -> Tensor:
    """Return the bool mask ``[*S]``."""
    if case.mask in TISSUES:
        from examples.brain_data import load_head  # no other benchmark needs it

        labels = load_head(1).labels
        assert labels.shape == case.size, (labels.shape, case.size)
        return labels == TISSUES[case.mask]
    generator = torch.Generator().manual_seed(0)
    if case.mask in ("ball", "background"):
        axes = [torch.arange(n) - n // 2 for n in case.size]
        radius = 0.3 * min(case.size)
        squares = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0)
        return (squares < radius**2) == (case.mask == "ball")
    values = torch.rand(case.size, generator=generator)
    if case.mask == "blobs":
        return torch.from_numpy(scipy.ndimage.gaussian_filter(values.numpy(), 4.0)) > 0.5
    if case.mask == "voxel":
        place = tuple(n // 3 for n in case.size)
        return torch.ones(case.size, dtype=torch.bool).index_put(
            tuple(torch.tensor(i) for i in place), torch.tensor(False)
        )
    return values > {"noise": 0.5, "seeds": 1e-4}[case.mask]


def contender(case: Case, name: str, mask: Tensor) -> Callable[[], Tensor | np.ndarray]:
    """Return a function that computes the distances."""
    if name == "native":
        batch = mask[None, None]
        return lambda: distance_transform(batch, case.spacing, impl="native")
    array = mask.numpy()
    if name == "scipy":
        sampling = None if set(case.spacing) == {1.0} else case.spacing
        return lambda: scipy.ndimage.distance_transform_edt(array, sampling=sampling)
    import edt  # no other benchmark needs it

    return lambda: edt.edt(array, anisotropy=case.spacing, parallel=THREADS)


@dataclass(frozen=True)
class Measured:
    """What the tests of a case share.

    Attributes:
        runs: The contenders.
        times: Their times, under the mode ``both``, like those of the losses.
        peak: Bytes that ours allocates above the output.
        errors: Largest error of each, relative to scipy's float64.
    """

    runs: dict[str, Callable[[], Tensor | np.ndarray]]
    times: dict[str, dict[str, Timing]]
    peak: int
    errors: dict[str, float]


@functools.lru_cache(maxsize=1)  # one at a time: volumes are large, and tests come case by case
def measure(case: Case, effort: Effort) -> Measured:
    """Compare the contenders of a case, interleaved."""
    mask = make_mask(case)
    runs = {name: contender(case, name, mask) for name in case.contenders}
    times = interleave({name: functools.partial(_timed, run) for name, run in runs.items()}, effort)
    truth = np.asarray(scipy.ndimage.distance_transform_edt(mask.numpy(), sampling=case.spacing))
    errors = {}
    for name, run in runs.items():
        found = np.asarray(run()).reshape(truth.shape)
        errors[name] = float((np.abs(found - truth) / np.maximum(truth, min(case.spacing))).max())
    return Measured(runs, times, _peak(runs["native"]) - 4 * mask.numel(), errors)


def _timed(run: Callable[[], object]) -> dict[str, float]:
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    del result  # after the clock has stopped
    return {"both": seconds}


def _peak(run: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    held = peak = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak
