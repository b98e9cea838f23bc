"""The bins that the histogram method sorts errors into.

Errors of probabilities lie in [0, 1] and crowd at both ends, where float32 too is finest on one
side only. With E octaves and b bits there are K = 2 E 2^b bins, half of them for errors m below
one half, half for the rest, by the distance e = min(m, 1 - m) from the nearer end: 2^b equal bins
up to tau = 2^-E, and from there on 2^b equal bins in every octave [2^k tau, 2^(k+1) tau), up to one
half. So a bin is as narrow as tau / 2^b, and never wider than e / 2^b above tau. Bin numbers rise
with m; in the upper half they are mirrored.

Hinge errors have no upper end: 2 E octaves of the same kind, tau = 2^(17 - 2 E), reach 2^16. Their
bin 0 holds the voxels with m <= 0, which are no errors.

The place of e within its bin, its offset, is a number of 16 bits. Their integer sum per bin gives
the sum of the errors, to 2^-16 of the bin's width, in any order of summation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast.ops.lovasz.options import Options

DEFAULT = (16, 8)  # E and b: 8192 bins; benchmarks/lovasz_accuracy.py has the measurement
OCTAVES = range(9, 17)  # of the numbers that bins can be: exactly one E for each
BITS = range(12)
OFFSET_BITS = 16
HINGE_END = 2.0**16


def number(octaves: int, bits: int) -> int:
    """Return K."""
    return 2 * octaves << bits


def layout(bins: int | None, activation: str = "softmax") -> tuple[int, int]:
    """Return E and b of a number of bins, those of the default for None.

    Hinge errors have half the octaves, and twice the bins in each, where 16 would be most: their
    small ones matter less than their large ones.

    Raises:
        TypeError: If ``bins`` is not an int or None.
        ValueError: If there are no such bins.
    """
    if bins is None:
        bins = number(*DEFAULT)
    if not isinstance(bins, int) or isinstance(bins, bool):
        raise TypeError(f"bins must be an int or None, got {type(bins).__name__}")
    for bits in BITS:
        octaves = bins >> (bits + 1)
        if octaves in OCTAVES and number(octaves, bits) == bins:
            halved = activation == "hinge" and octaves == OCTAVES[-1]
            return (octaves // 2, bits + 1) if halved else (octaves, bits)
    raise ValueError(
        f"bins must be {OCTAVES[0]} to {OCTAVES[-1]} times a power of two, from "
        f"{number(OCTAVES[0], BITS[0])} to {number(OCTAVES[-1], BITS[-1])} "
        f"(such as 4096, 6144 or 8192), got {bins}"
    )


def locate(error: Tensor, complement: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Return each error's bin and offset, int64, and whether it cannot be counted.

    That is where it is NaN, and hinge errors of 2^16 and more; their bin is the last.

    Args:
        error: m, float32 or float64.
        complement: 1 - m, which below an ulp of 1 only who computed m can know; hinge: unused.
        options: Of the bins.
    """
    bits, bins = options.bits, number(options.octaves, options.bits)
    if options.activation == "hinge":
        e = error.float()
        code = _code(e, 17 - 2 * options.octaves, bits)
        last = bins - 1
        flagged = ~(error < HINGE_END)
    else:
        low = error < complement
        e = torch.where(low, error, complement).float()
        code = _code(e, -options.octaves, bits)
        last = bins // 2 - 1
        flagged = error.isnan()
    found = code >> OFFSET_BITS
    offset = torch.where(found > last, 2**OFFSET_BITS - 1, code & (2**OFFSET_BITS - 1))
    found = found.clamp_max(last)
    if options.activation == "hinge":
        least = (e > 0) & (found == 0)  # bin 0 is for no error
        found, offset = found + least, offset.masked_fill(least, 0)
    else:
        found = torch.where(low, found, bins - 1 - found)
    return found.masked_fill(flagged, bins - 1), offset.masked_fill(flagged, 0), flagged


def _code(e: Tensor, exponent: int, bits: int) -> Tensor:
    """Return bin and offset of a distance from the end as one fixed-point number, int64."""
    tau = 2.0**exponent
    tau_pattern = (127 + exponent) << 23  # of tau's bits as a float32
    linear = (e.clamp_max(tau) * 2.0 ** (bits + OFFSET_BITS - exponent)).to(torch.int64)
    octave = e.view(torch.int32).to(torch.int64) - tau_pattern
    shift = 23 - bits - OFFSET_BITS
    octave = octave >> shift if shift >= 0 else octave << -shift
    return torch.where(e < tau, linear, octave + (1 << (bits + OFFSET_BITS)))


def ends(options: Options, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return each bin's lower end and width, ``[K]``, as distances from the nearer end."""
    bits, bins = options.bits, number(options.octaves, options.bits)
    hinge = options.activation == "hinge"
    exponent = 17 - 2 * options.octaves if hinge else -options.octaves
    k = torch.arange(bins if hinge else bins // 2, device=device)
    j = (k - (1 << bits)).clamp_min(0)
    linear = k < 1 << bits
    part = (j & ((1 << bits) - 1)).to(dtype) / (1 << bits)
    unit = torch.ldexp(torch.ones_like(part), exponent + (j >> bits))
    width = unit / (1 << bits)
    lower = torch.where(linear, k * width, unit * (1 + part))
    if hinge:
        return lower, width
    return torch.cat([lower, lower.flip(0)]), torch.cat([width, width.flip(0)])


def error_sums(number: Tensor, offsets: Tensor, options: Options) -> Tensor:
    """Return the sum of m in each bin, ``[..., K]``.

    Args:
        number: Voxels in each bin, ``[..., K]``, floating point.
        offsets: Sums of their offsets, of the same dtype.
        options: Of the bins.
    """
    lower, width = ends(options, number.device, number.dtype)
    # An offset is rounded down: by one half, on average.
    sums = number * lower + (offsets + number / 2) * (width / 2**OFFSET_BITS)
    index = torch.arange(lower.numel(), device=lower.device)
    if options.activation == "hinge":
        return torch.where(index > 0, sums, 0)
    return torch.where(2 * index < lower.numel(), sums, number - sums)
