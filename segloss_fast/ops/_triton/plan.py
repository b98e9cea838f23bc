"""How kernels cut their work: layouts, tiles, programs."""

from __future__ import annotations

from dataclasses import dataclass

PLANES, CHANNELS_LAST, STRIDED = range(3)  # how voxels lie; see tiles.py


@dataclass(frozen=True)
class Plan:
    """The tiles of one launch.

    Attributes:
        block_c: Classes per tile, a power of two.
        block_v: Voxels per tile.
        fold: Voxels of a tile that one thread holds, per class.
        warps: Warps per program.
        class_blocks: Programs that share the classes of an item.
        chunks: Programs that share the voxels of an item.
        unit: What the strides are passed in units of: the length of the vectors to load.
        wide: Whether the wide kernels run, which loop over blocks of classes.
    """

    block_c: int
    block_v: int
    fold: int
    warps: int
    class_blocks: int
    chunks: int
    unit: int
    wide: bool


def rounded(programs: int, least: int, most: int) -> int:
    """Return so many programs in whole rounds of those that an H200 runs at once.

    Each of its 132 multiprocessors runs two to four of them at a time, sometimes six. Were they no
    multiple of these, most multiprocessors would wait for those that have one more.

    Args:
        programs: How many may leave partial sums, by the memory of these.
        least: As many as multiprocessors, whatever their memory.
        most: Also at most; it wins.
    """
    fitting = [least * n for n in (1, 2, 3, 4, 12) if least * n <= min(programs, most)]
    return max(fitting, default=min(least, most))
