"""The primitives: the only part of the package that touches kernels."""

# A folder each, with its kernels in op.py; in the order of segloss_fast.backends().
PRIMITIVES = (
    "region_sums",
    "lovasz",
    "distance_transform",
    "region_masks",
    "hardest_voxels",
    "confusion_sums",
    "soft_skeleton",
    "structural_error",
    "connected_components",
    "component_sums",
)
