"""The connected components of masks and of label maps, numbered in the order of the raster.

Two voxels of the foreground are connected where a chain of neighbours in the foreground, by value
all of the same value, leads from the one to the other. The places of neighbours differ by at most 1
along each axis: along one axis only with ``"faces"``, along two with ``"edges"``, along all with
``"full"``. Components are numbered from 1 on by the place of their first voxel, where the last axis
runs fastest: that is the order of ``scipy.ndimage.label``, on every device and by any number of
threads.

The native kernels work on runs, the pieces of rows that belong together anyway: found as bits, 64
voxels at a time, united where runs of neighbouring rows touch, by the smaller number, so that the
root of a component is the run with its first voxel (He, Chao & Suzuki 2008,
https://doi.org/10.1109/TIP.2008.919369). On a GPU roots are linked by atomic minima of integers
(Komura 2015, https://doi.org/10.1016/j.cpc.2015.04.015), whose order changes nothing.
"""

from __future__ import annotations

from segloss_fast.ops.connected_components.contract import connected_components
from segloss_fast.ops.connected_components.record import Components
from segloss_fast.ops.connected_components.reference import CONNECTIVITIES

__all__ = ["CONNECTIVITIES", "Components", "connected_components"]
