"""Which version of each peer the drop-in modules match, and which one is installed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class Peer:
    """A package whose losses have drop-in modules here.

    Attributes:
        module: The drop-in module.
        distributions: The names for pip of the package and of its other builds.
        version: The version whose numbers the drop-in modules give.
        differences: Where the drop-ins do something else, a line each.
    """

    module: str
    distributions: tuple[str, ...]
    version: str
    differences: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name for pip."""
        return self.distributions[0]

    def installed(self) -> tuple[str, str] | None:
        """Return the name and version of what is installed, if anything is."""
        for name in self.distributions:
            try:
                return name, metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return None

    def mismatch(self) -> str | None:
        """Return a sentence about another version that is installed, None if there is none."""
        found = self.installed()
        if found is None or found[1].partition("+")[0] == self.version:
            return None
        return (
            f"{self.module} gives the numbers of {self.name} {self.version}, and {' '.join(found)} "
            "is installed, whose numbers may differ"
        )

    def warn_unless_matched(self) -> None:
        """Warn if another version is installed; called by the module's import, so once."""
        found = self.mismatch()
        if found is not None:
            warnings.warn(found, stacklevel=3)


_PLAIN = "the loss of tensors of a subclass is a plain tensor"
_LABELS = "class indices out of range raise ValueError on the CPU"
PEERS = {
    "monai": Peer(
        "segloss_fast.compat.monai",
        ("monai", "monai-weekly"),
        "1.6.1",
        (
            _PLAIN,
            _LABELS,
            "torch.jit.script compiles MONAI's own class, with its time and memory",
        ),
    ),
    "smp": Peer(
        "segloss_fast.compat.smp",
        ("segmentation-models-pytorch",),
        "0.6.0",
        (_PLAIN, _LABELS),
    ),
    "kornia": Peer(
        "segloss_fast.compat.kornia",
        ("kornia",),
        "0.9.0",
        (_PLAIN, _LABELS),
    ),
    "nnunet": Peer(
        "segloss_fast.compat.nnunet",
        ("nnunetv2",),
        "2.8.1",
        (
            _PLAIN,
            _LABELS,
            "voxels of equal cross-entropy at the edge of TopK's percentage share it",
            "class indices that are no whole numbers raise ValueError on the CPU",
            "masks get no gradient, and dictionaries of arguments stay as they are",
        ),
    ),
}


def report() -> Iterator[str]:
    """Yield lines about each peer: the version matched, the one installed, what differs."""
    for peer in PEERS.values():
        found = peer.installed()
        state = "not installed, not needed" if found is None else f"{' '.join(found)} is installed"
        yield f"{peer.module}: as {peer.name} {peer.version}; {state}"
        mismatch = peer.mismatch()
        if mismatch is not None:
            yield f"  another version: {mismatch}"
        yield from (f"  differs: {difference}" for difference in peer.differences)
    yield "More of each, and all known differences: docs/compat.md"
