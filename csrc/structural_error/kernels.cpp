// The structural_error kernels, for each instruction set.
#include "structural_error/kernels.h"

#include "voxels/kernels.h"

#define SEGLOSS_KERNELS "structural_error/kernels.inc"
#include "instruction_sets.inc"
