// The region_sums kernels, for each instruction set.
#include "region_sums/kernels.h"

#include "voxels/kernels.h"

#define SEGLOSS_KERNELS "region_sums/kernels.inc"
#include "instruction_sets.inc"
