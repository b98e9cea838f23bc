"""Fused segmentation losses for PyTorch: the same numbers in a fraction of the time and memory."""

from segloss_fast import functional, losses
from segloss_fast._backends import Backend, backends
from segloss_fast._impl import debug, set_impl, use_impl
from segloss_fast._version import __version__
from segloss_fast.losses import *  # noqa: F403
from segloss_fast.losses.component_maps import component_cells, component_labels
from segloss_fast.losses.fields import boundary_field, hausdorff_field, penalty_field
from segloss_fast.losses.skeletons import tubed_skeleton
from segloss_fast.ops.component_sums import ComponentSums, component_sums
from segloss_fast.ops.connected_components import Components, connected_components
from segloss_fast.ops.distance_transform import distance_transform, nearest_component
from segloss_fast.ops.lovasz import LovaszSums, lovasz, lovasz_counts
from segloss_fast.ops.region_sums import RegionSums, region_sums, region_sums_multi

__all__ = [
    "Backend",
    "ComponentSums",
    "Components",
    "LovaszSums",
    "RegionSums",
    "__version__",
    "backends",
    "boundary_field",
    "component_cells",
    "component_labels",
    "component_sums",
    "connected_components",
    "debug",
    "distance_transform",
    "functional",
    "hausdorff_field",
    "lovasz",
    "lovasz_counts",
    "nearest_component",
    "penalty_field",
    "region_sums",
    "region_sums_multi",
    "set_impl",
    "tubed_skeleton",
    "use_impl",
]
__all__ += losses.__all__
