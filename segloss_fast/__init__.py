"""Fused segmentation losses for PyTorch."""

from segloss_fast._version import __version__
from segloss_fast.ops.region_sums import RegionSums, region_sums

__all__ = ["RegionSums", "__version__", "region_sums"]
