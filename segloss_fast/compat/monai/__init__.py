"""The segmentation losses of MONAI 1.6.1, by their names.

>>> from segloss_fast.compat.monai import DiceLoss
"""

from __future__ import annotations

from segloss_fast.compat._peers import PEERS
from segloss_fast.compat.monai.dice import DiceLoss

__all__ = ["DiceLoss"]

PEERS["monai"].warn_unless_matched()
