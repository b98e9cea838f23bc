// What the host tells the kernels. It travels by value, as a kernel's parameter.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "component_sums/kernels.h"
#include "voxels/cuda/quads.cuh"

namespace segloss::component_sums::cuda {

#ifdef SEGLOSS_HOST_SHIM      // the tests' volumes are small
constexpr int kThreads = 64;  // of a block
#else
constexpr int kThreads = 256;
#endif
constexpr int kWarps = kThreads / 32;
constexpr int kTile = 32 * kQuad;  // voxels that a warp takes at once
constexpr int kMostSlots = 8;      // bins of a class that a warp keeps sums of
constexpr int kLimbBits = 30;      // see limbs.cuh
constexpr int kMostLimbs = 8;
constexpr int64_t kMostVoxels = int64_t{1} << 33;  // of an item, which limbs can count

// The sums of all bins while blocks add to them. All of it begins as 0.
struct Accumulators {
  unsigned long long* limbs;    // [item][class][bin][limb][row]
  unsigned long long* invalid;  // [2]: how many labels; the complement of where the first is
  unsigned* special;            // [item][class][bin]: what is no number, three bits of a row
  unsigned* lost;               // [item][class]: whether a bin is out of range
  int count;                    // of the limbs of a sum
  double scale;                 // from numbers to units of the last limb
};

struct Launch {
  Problem problem;
  Term term[kTermCount];  // of each row
  Accumulators to;
  int64_t item_tiles;
  int64_t warp_tiles;  // that a warp works off
  int64_t item_blocks;
  int slots;                // 0: all runs go to global memory
  View grad;                // backward
  const double* grad_rows;  // backward: [row][item][class][bin]
};
static_assert(sizeof(Launch) < 4096, "the kernels' parameter must be small");

}  // namespace segloss::component_sums::cuda
