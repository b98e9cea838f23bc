// The soft_skeleton kernels, for each instruction set.
#include "soft_skeleton/kernels.h"

#define SEGLOSS_KERNELS "soft_skeleton/kernels.inc"
#include "instruction_sets.inc"
