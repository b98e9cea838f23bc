// CUDA's qualifiers, which say where code runs and data lives; here all is the CPU.
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline
#define __align__(bytes) __attribute__((aligned(bytes)))

// Blocks run one after another, so one copy serves all. It keeps what the block before left.
#define __shared__ static
