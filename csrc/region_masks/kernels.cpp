// The region_masks kernels, for each instruction set.
#include "region_masks/kernels.h"

#include "voxels/kernels.h"

#define SEGLOSS_KERNELS "region_masks/kernels.inc"
#include "instruction_sets.inc"
