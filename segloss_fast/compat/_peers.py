"""Which version of each peer the drop-in modules match, and which one is installed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class Peer:
    """A package whose losses have drop-in modules here.

    Attributes:
        distribution: Its name for pip.
        version: The version whose numbers the drop-in modules give.
    """

    distribution: str
    version: str

    def installed(self) -> str | None:
        """Return the version that is installed, if any."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None

    def warn_unless_matched(self) -> None:
        """Warn if another version is installed; called by an import, so once."""
        found = self.installed()
        if found is not None and found.partition("+")[0] != self.version:
            warnings.warn(
                f"segloss_fast gives the numbers of {self.distribution} {self.version}, and "
                f"{found} is installed, whose numbers may differ",
                stacklevel=2,
            )


PEERS = {
    "monai": Peer("monai", "1.6.1"),
    "smp": Peer("segmentation-models-pytorch", "0.6.0"),
    "kornia": Peer("kornia", "0.9.0"),
}
