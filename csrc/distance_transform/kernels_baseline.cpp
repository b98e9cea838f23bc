// The distance_transform kernels for the instruction set that the compiler targets by default.
#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "distance_transform/kernels.h"

#define SEGLOSS_NAMESPACE baseline
#include "distance_transform/kernels.inc"
