"""The bins that the histogram method sorts errors into.

Errors crowd at a few points: those of probabilities at 0 and 1, where a trained network has them,
and at 1/2, where one has them that has learnt nothing yet; those of the hinge at 1. A bin is all
errors whose distance d from the nearest such point, on one side of it, lies between two bounds:
with 2^b parts there are 2^b equal bins up to tau, and from there on 2^b equal bins in every octave
[2^k tau, 2^(k+1) tau). So a bin is as narrow as tau / 2^b, and never wider than d / 2^b above tau.
Bin numbers rise with the error m; where m falls with d they are counted backwards.

Errors of probabilities have K = 4 E 2^b bins in four runs of E octaves, the first of which is that
up to tau = 2^-(E + 1): from 0 up to 1/4, from 1/2 down to 1/4, and as many above 1/2. What lies
nearer to 1/2 than tau / 2^b, 2^-24 by default, float32 does not tell apart.

Hinge errors have K bins too. Bin 0 is for the voxels with m <= 0, which are no errors, and for them
alone. The others have 2^(b + 1) parts, and tau = 2^(5 - E): E - 4 octaves from 1 down to 0, and
E + 1 from 1 up to 33. Larger errors are few: for d from 2^5 on there are 2^(b - 1) parts in an
octave. What is left of them above 2^16, 2^(b - 1) - 1 bins, stays empty.

The place of d within its bin, its offset, is a number of 16 bits. Their integer sum per bin gives
the sum of the errors, to 2^-16 of the bin's width, in any order of summation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast.ops.lovasz.options import Options

DEFAULT = (16, 7)  # E and b: 8192 bins; benchmarks/lovasz_accuracy.py has the measurement
OCTAVES = range(9, 17)  # of the numbers that bins can be: exactly one E for each
BITS = range(1, 11)
OFFSET_BITS = 16
HINGE_END = 2.0**16
HINGE_FINE = 5  # log2 of the d from which on hinge errors have a quarter of the bins


def number(octaves: int, bits: int) -> int:
    """Return K."""
    return 4 * octaves << bits


def layout(bins: int | None) -> tuple[int, int]:
    """Return E and b of a number of bins, those of the default for None.

    Raises:
        TypeError: If ``bins`` is not an int or None.
        ValueError: If there are no such bins.
    """
    if bins is None:
        return DEFAULT
    if not isinstance(bins, int) or isinstance(bins, bool):
        raise TypeError(f"bins must be an int or None, got {type(bins).__name__}")
    for bits in BITS:
        octaves = bins >> (bits + 2)
        if octaves in OCTAVES and number(octaves, bits) == bins:
            return octaves, bits
    raise ValueError(
        f"bins must be {OCTAVES[0]} to {OCTAVES[-1]} times a power of two, from "
        f"{number(OCTAVES[0], BITS[0])} to {number(OCTAVES[-1], BITS[-1])} "
        f"(such as 4096, 6144 or 8192), got {bins}"
    )


def locate(error: Tensor, complement: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Return each error's bin and offset, int64, and whether it cannot be counted.

    That is where it is NaN, and hinge errors of 2^16 and more; they are in any bin.

    Args:
        error: m, float32 or float64.
        complement: 1 - m, which below an ulp of 1 only who computed m can know; hinge: unused.
        options: Of the bins.
    """
    if options.activation == "hinge":
        return *_locate_hinge(error, options), ~(error < HINGE_END)
    return *_locate_probability(error, complement, options), error.isnan()


def _locate_probability(
    error: Tensor, complement: Tensor, options: Options
) -> tuple[Tensor, Tensor]:
    half = number(options.octaves, options.bits) // 2
    low = error < complement
    e = torch.where(low, error, complement)
    inner = e >= 0.25  # nearer to 1/2 than to the end
    d = torch.where(inner, (0.5 - e).abs(), e)  # rounding may bring both errors above 1/2
    code = _code(d, 2.0**-2, -1 - options.octaves, options.bits)
    found = code >> OFFSET_BITS
    found = torch.where(inner, half - 1 - found, found)
    return torch.where(low, found, 2 * half - 1 - found), _offset(code)


def _locate_hinge(error: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    bits, octaves = options.bits + 1, options.octaves
    below = (octaves - 4) << bits  # bins
    m = _at_most(error.float(), HINGE_END)
    d = torch.where(m < 1, _at_most(1 - m, 1.0), m - 1)
    code = _code(d, HINGE_END, 5 - octaves, bits)
    fine = (octaves + 1) << (bits + OFFSET_BITS)
    code = torch.where(code < fine, code, fine + ((code - fine) >> 2))
    found = code >> OFFSET_BITS
    found = torch.where(m < 1, below - found, below + 1 + found)
    return torch.where(m > 0, found, 0), _offset(code)  # bin 0 is for no error


def _at_most(d: Tensor, end: float) -> Tensor:
    """Return d where it is below a power of two, elsewhere, a NaN too, the float32 before that."""
    return torch.where(d < end, d, end * (1 - 2.0**-24))


def _offset(code: Tensor) -> Tensor:
    offset: Tensor = code & (2**OFFSET_BITS - 1)
    return offset


def _code(d: Tensor, end: float, exponent: int, bits: int) -> Tensor:
    """Return bin and offset of a distance as one fixed-point number, int64.

    Args:
        d: Not below 0; what is not below ``end``, a NaN too, counts as just below it.
        end: A power of two.
        exponent: Of tau.
        bits: Of the parts.
    """
    d = _at_most(d.float(), end)
    tau = 2.0**exponent
    tau_pattern = (127 + exponent) << 23  # of tau's bits as a float32
    linear = (d.clamp_max(tau) * 2.0 ** (bits + OFFSET_BITS - exponent)).to(torch.int64)
    octave = d.view(torch.int32).to(torch.int64) - tau_pattern
    shift = 23 - bits - OFFSET_BITS
    octave = octave >> shift if shift >= 0 else octave << -shift
    return torch.where(d < tau, linear, octave + (1 << (bits + OFFSET_BITS)))


def bounds(
    options: Options, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return of each bin, ``[K]``, the ends at offsets 0 and 2^16, and the point they crowd at.

    An end is m less that point: positive or negative. Both ends of the hinge's bin 0 are at m = 0.
    """

    def distances(first: int, exponent: int, bits: int) -> Tensor:
        """Return the lower ends of so many bins and that of the next."""
        k = torch.arange(first + 1, device=device)
        j = (k - (1 << bits)).clamp_min(0)
        part = (j & ((1 << bits) - 1)).to(dtype)
        unit = torch.ldexp(torch.ones_like(part), exponent - bits + (j >> bits))
        return unit * torch.where(k < 1 << bits, k, part + (1 << bits))

    octaves, bits = options.octaves, options.bits
    if options.activation != "hinge":
        d = distances(octaves << bits, -1 - octaves, bits)
        from_zero, from_half = torch.stack([d[:-1], d[1:]]), -torch.stack([d[:-1], d[1:]]).flip(1)
        ends = torch.cat([from_zero, from_half, -from_half.flip(1), -from_zero.flip(1)], 1)
        points = torch.tensor([0, 0.5, 0.5, 1], dtype=dtype, device=device)
        return ends[0], ends[1], points.repeat_interleave(octaves << bits)
    fine, exponent = octaves + 1 << bits + 1, 5 - octaves
    d = distances(fine, exponent, bits + 1)
    below = -torch.stack([d[:-1], d[1:]])[:, : octaves - 4 << bits + 1].flip(1)
    coarse = distances((13 << bits - 1) - 1, HINGE_FINE, bits - 1)[1 << bits - 1 :]
    d = torch.cat([d[:-1], coarse])
    none = -torch.ones_like(below[:, :1])
    ends = torch.cat([none, below, torch.stack([d[:-1], d[1:]])], 1)
    return ends[0], ends[1], torch.ones_like(ends[0])


def error_sums(number: Tensor, offsets: Tensor, options: Options) -> Tensor:
    """Return the sum of m in each bin, ``[..., K]``.

    Args:
        number: Voxels in each bin, ``[..., K]``, floating point.
        offsets: Sums of their offsets, of the same dtype.
        options: Of the bins.
    """
    near, far, point = bounds(options, number.device, number.dtype)
    # An offset is rounded down: by one half, on average.
    distances = number * near + (offsets + number / 2) * ((far - near) / 2**OFFSET_BITS)
    sums: Tensor = number * point + distances
    return sums
