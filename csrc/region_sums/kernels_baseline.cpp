// The region_sums kernels for the instruction set that the compiler targets by default.
#include "region_sums/kernels.h"

#include <cstring>

#define SEGLOSS_NAMESPACE baseline
#include "region_sums/kernels.inc"
