// The component_sums kernels, for each instruction set.
#include "component_sums/kernels.h"

#include "voxels/kernels.h"

#define SEGLOSS_KERNELS "component_sums/kernels.inc"
#include "instruction_sets.inc"
