// The distance_transform kernels, for each instruction set.
#include "distance_transform/kernels.h"

// Squares are rounded before they are added: results do not depend on the instruction set.
#define SEGLOSS_NO_FMA
#define SEGLOSS_KERNELS "distance_transform/kernels.inc"
#if defined(__GNUC__) && !defined(__clang__)
// gcc 12 warns of the intrinsics' own undefined values.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include "instruction_sets.inc"
