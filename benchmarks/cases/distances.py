"""What the benchmark of distance_transform compares: masks, our kernels, and other packages'.

On the CPU these are scipy and edt, on a CUDA device CuPy. A machine with a device needs neither of
the former, so each is imported where it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from segloss_fast import _native, distance_transform

MASKS = ("ball", "background", "blobs", "noise", "seeds", "voxel")
TISSUES = {"gray matter": 2, "white matter": 3}  # of the demo's head
HEAD = (197, 233, 189)  # its size at 1 mm
CONTENDERS = ("native", "edt", "scipy")
SIDES = ("inside", "outside", "both", "signed")
CUDA_CONTENDERS = ("native", "triton", *(("cupy",) if find_spec("cupy") else ()))
PASS_BYTES = {1: 5, 2: 3 + 6, 3: 3 + 6 + 8}  # by the number of axes


@dataclass(frozen=True)
class Case:
    """A mask, the distances inside of which are measured on the CPU.

    Attributes:
        mask: One of MASKS or of TISSUES. ``"ball"``: the inside of one,
            ``"background"``: its outside.
            ``"blobs"``: half of the volume, smooth. ``"noise"``: half of the voxels, at random.
            ``"seeds"``: all but one voxel in 10,000. ``"voxel"``: all but one. Tissues have the
            size HEAD.
        size: Voxels along each axis.
        spacing: Of the axes.
    """

    mask: str
    size: tuple[int, ...]
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    device = "cpu"

    @property
    def kind(self) -> str:
        """The mask and its spacing, like ``blobs 3x0.8x0.8``."""
        if set(self.spacing) == {1.0}:
            return self.mask
        return f"{self.mask} {'x'.join(f'{w:.3g}' for w in self.spacing)}"

    @property
    def name(self) -> str:
        """The case as an identifier."""
        return f"{'x'.join(map(str, self.size))}-{self.kind.replace(' ', '-')}"

    @property
    def shape(self) -> list[int]:
        """Of what is given to the operator."""
        return [1, 1, *self.size]


@dataclass(frozen=True)
class CudaCase:
    """Masks on a CUDA device, and what is asked of them.

    Attributes:
        mask: ``"blobs"``, ``"noise"``, ``"seeds"`` as of Case; ``"ball"``, and ``"around"`` it.
        size: Voxels along each axis.
        spacing: Of the axes, 1 if None.
        side: One of SIDES.
        masks: How many, in one call.
    """

    mask: str
    size: tuple[int, ...]
    spacing: tuple[float, ...] | None = None
    side: str = "inside"
    masks: int = 1
    device = "cuda"

    @property
    def kind(self) -> str:
        """The mask and the side, like ``blobs, inside``."""
        return f"{self.mask}, {self.side}"

    @property
    def name(self) -> str:
        """The case as an identifier."""
        size = "x".join(map(str, self.size))
        spaced = "-spaced" if self.spacing else ""
        return f"{self.mask}-{self.masks}x{size}{spaced}-{self.side}"

    @property
    def shape(self) -> list[int]:
        """Of what is given to the operator."""
        return [1, self.masks, *self.size]


def make_mask(case: Case) -> Tensor:
    """Return the bool mask ``[*S]``."""
    if case.mask in TISSUES:
        from examples.brain_data import load_head

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
        smooth = import_module("scipy.ndimage").gaussian_filter(values.numpy(), 4.0)
        return torch.from_numpy(smooth) > 0.5
    if case.mask == "voxel":
        place = tuple(n // 3 for n in case.size)
        return torch.ones(case.size, dtype=torch.bool).index_put(
            tuple(torch.tensor(i) for i in place), torch.tensor(False)
        )
    return values > {"noise": 0.5, "seeds": 1e-4}[case.mask]


def contender(case: Case, name: str, mask: Tensor) -> Callable[[], object]:
    """Return a function that computes the distances."""
    if name == "native":
        batch = mask[None, None]
        return lambda: distance_transform(batch, case.spacing, impl="native")
    array = mask.numpy()
    if name == "scipy":
        transform = import_module("scipy.ndimage").distance_transform_edt
        sampling = None if set(case.spacing) == {1.0} else case.spacing
        return lambda: transform(array, sampling=sampling)
    edt, threads = import_module("edt").edt, torch.get_num_threads()
    return lambda: edt(array, anisotropy=case.spacing, parallel=threads)


def make_cuda_masks(case: CudaCase) -> Tensor:
    """Return ``[1, masks, *size]`` on the device, bool."""
    generator = torch.Generator("cuda").manual_seed(0)
    noise = torch.rand(case.shape, generator=generator, device="cuda")
    if case.mask == "noise":
        return noise < 0.5
    if case.mask == "seeds":
        return noise > 1e-4
    if case.mask == "blobs":
        pool = getattr(torch.nn.functional, f"avg_pool{len(case.size)}d")
        for _ in range(3):
            noise = pool(noise, 7, stride=1, padding=3, count_include_pad=False)
        return noise > 0.5
    square = torch.zeros((), device="cuda")
    for size in case.size:
        square = square[..., None] + (torch.arange(size, device="cuda") - size / 2).square()
    ball = square < (0.15 * max(case.size)) ** 2
    return (ball if case.mask == "ball" else ~ball).expand(case.shape).contiguous()


def cuda_contender(case: CudaCase, name: str, mask: Tensor) -> Callable[[], object]:
    """Return a function that computes the distances; skip the test where it cannot."""
    spacing = list(case.spacing or [1.0] * len(case.size))
    if name == "cupy":
        if case.side != "inside" or case.masks > 1 or len(case.size) == 1:
            pytest.skip("CuPy transforms one side of one mask")
        transform = import_module("cupyx.scipy.ndimage").distance_transform_edt
        array = import_module("cupy").from_dlpack(mask[0, 0].to(torch.uint8))
        return lambda: transform(array, sampling=case.spacing, float64_distances=False)
    if name == "triton":
        launch = import_module("segloss_fast.ops.distance_transform.triton_launch")
        return lambda: launch.forward(mask, spacing, case.side, False)
    if _native.CUDA_BUILD is None:
        pytest.skip("the CUDA library was not built")
    operator = torch.ops.segloss_fast._distance_transform
    return lambda: operator(mask, spacing, SIDES.index(case.side), False)
