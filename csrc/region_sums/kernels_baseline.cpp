// The region_sums kernels for the instruction set that the compiler targets by default.
#include <cstring>

#include "region_sums/kernels.h"

#define SEGLOSS_NAMESPACE baseline
#include "region_sums/kernels.inc"
