// The confusion_sums kernels, for each instruction set.
#include "confusion_sums/kernels.h"

#include "voxels/kernels.h"

#define SEGLOSS_KERNELS "confusion_sums/kernels.inc"
#include "instruction_sets.inc"
