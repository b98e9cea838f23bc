// The hardest_voxels kernels, for each instruction set.
#include "hardest_voxels/kernels.h"

#include "voxels/kernels.h"

#define SEGLOSS_KERNELS "hardest_voxels/kernels.inc"
#include "instruction_sets.inc"
