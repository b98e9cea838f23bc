// The distance_transform kernels, for each instruction set.
#include "distance_transform/kernels.h"

#if defined(__GNUC__) && !defined(__clang__)
// gcc 12 warns of the intrinsics' own undefined values.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#define SEGLOSS_KERNELS "distance_transform/kernels.inc"
#include "instruction_sets.inc"
