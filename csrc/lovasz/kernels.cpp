// The lovasz kernels, for each instruction set.
#include "lovasz/kernels.h"

#include "voxels/kernels.h"

#define SEGLOSS_KERNELS "lovasz/kernels.inc"
#include "instruction_sets.inc"
