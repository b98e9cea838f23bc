r"""The exact Euclidean distance from every voxel of a mask to the nearest voxel of its other side.

Voxel centres i, j with spacing w_a along axis a lie d(i, j) apart,

    d(i, j)^2 = sum_a w_a^2 (i_a - j_a)^2,

and the distance at a voxel inside the mask is the least d to a voxel outside of it, and the other
way round. The least over all j is taken axis by axis, because the squares separate: with f_0 = 0 on
the other side and infinity on the voxel's own,

    f_a(i) = min_j f_(a-1)(j) + w_a^2 (i_a - j_a)^2,  j differing from i along axis a only,

after the last axis is the squared distance (Felzenszwalb & Huttenlocher, Theory of Computing 2012,
https://doi.org/10.4086/toc.2012.v008a019). Along a line, the j that attains the minimum never
decreases with i, so it can be found by divide and conquer over the line, without the lower envelope
of parabolas; where distances are short, a search outwards from i, which ends once w^2 k^2 alone
exceeds the best so far, is faster still. The native kernels choose between the two tile by tile.

``nearest_component`` takes the least of pairs (f, label) instead, in the order of f and then of the
labels, which start at 0 on labelled voxels and at infinity elsewhere. To every candidate of a row
the same cost is added, which keeps their order, so that the least pair of all is found axis by
axis, too; and since a label is an infinitesimal addition to f, its place never decreases either.
"""

from __future__ import annotations

from segloss_fast.ops.distance_transform.contract import (
    add_distances,
    bounded_distances,
    distance_transform,
)
from segloss_fast.ops.distance_transform.nearest import nearest_component
from segloss_fast.ops.distance_transform.reference import SIDES

__all__ = ["SIDES", "add_distances", "bounded_distances", "distance_transform", "nearest_component"]
