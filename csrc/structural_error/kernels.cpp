// The structural_error kernels, for each instruction set.
#include "structural_error/kernels.h"

#define SEGLOSS_KERNELS "structural_error/kernels.inc"
#include "instruction_sets.inc"
