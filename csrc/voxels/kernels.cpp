// The ways to read and write rows of voxels, for each instruction set.
#include "voxels/kernels.h"

#define SEGLOSS_KERNELS "voxels/kernels.inc"
#include "instruction_sets.inc"
