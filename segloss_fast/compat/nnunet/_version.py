"""Whether the nnU-Net that is installed is one that the trainers can work with."""

from __future__ import annotations

import re
from pathlib import Path

from segloss_fast.compat._peers import PEERS

MINIMUM = (2, 8)  # the first that looks for trainers in nnUNet_extTrainer
TRAINERS = Path(__file__).with_name("trainers")  # the folder that nnUNet_extTrainer must name
UPGRADE = "pip install --upgrade 'nnunetv2>=2.8.1'"


def too_old() -> str | None:
    """Return a sentence about an nnU-Net that is too old, None if it is not, or not there."""
    found = PEERS["nnunet"].installed()
    if found is None:
        return None
    numbers = tuple(int(number) for number in re.findall(r"\d+", found[1])[:2])
    if numbers >= MINIMUM:
        return None
    return (
        f"segloss_fast's trainers need nnU-Net {'.'.join(map(str, MINIMUM))} or later, which finds "
        f"them by the variable nnUNet_extTrainer, and {found[1]} is installed: {UPGRADE}"
    )
