// The connected_components kernels, for each instruction set.
#include "connected_components/kernels.h"

#define SEGLOSS_KERNELS "connected_components/kernels.inc"
#include "instruction_sets.inc"
