// What the host tells the kernels of the distance transform: one record per pass.
//
// Between passes a voxel carries one signed number, positive inside of the mask, negative outside:
// first the run length to the nearest voxel of the other side on its line, then the squared
// distance to the nearest such voxel in the axes done so far. Each voxel belongs to one side only,
// so one array serves both.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>

#include "distance_transform/kernels.h"

namespace segloss::distance_transform::cuda {

constexpr int kLanes = 32;
constexpr int64_t kMaxSize = int64_t(1) << 29;  // of an axis: sums of two positions fit an int

// Stands for the run length where the line has no voxel of the other side.
template <class Run>
constexpr int kNoRun = int(kMaxSize);
template <>
inline constexpr int kNoRun<int16_t> = std::numeric_limits<int16_t>::max();

// How squares become the result, in the last pass alone.
struct Finish {
  bool last;
  bool squared;
  bool two_sided;
  bool negate;   // signed distances are negative inside, the numbers above are positive there
  bool bounded;  // 0 instead of infinity
  bool add;      // to what the output holds; only of several axes
  // Spacings are measured in a unit, a power of four; the weights below are squares of the
  // quotients.
  float unit_root;
};

// What nearest_component adds to a pass. Between passes a voxel has a key, or a square and a label.
struct NearestPass {
  const unsigned* label_in;  // contiguous; these are what is written if tiles fit in shared memory
  const float* square_in;
  unsigned* label;      // keys between passes, if there are any
  float* square;        // null if nobody needs it
  bool distance;        // is wanted
  int bits;             // of the label in a key
  unsigned unreached;   // the key where no labelled voxel is known
  unsigned key_weight;  // squared spacing, in keys
  float unit;           // in which spacings are measured
  unsigned largest;     // that the dtype of the labels has, or int32
  unsigned limit;       // of labels that keys hold
  int* above;           // is set where a label is above the limit; null if none can be
  bool if_above;        // this pass runs then, and only then; else, if there is none

  __device__ bool is_skipped() const { return above != nullptr && (*above != 0) != if_above; }
};

// The first pass: lines of the mask to run lengths, or of labels to nearest ones.
struct RunPass {
  const void* mask;
  int64_t step;  // between neighbours on a line; this and the strides in elements
  int dims;      // of the lines, the outermost first
  int64_t size[4];
  int64_t stride[4];
  int64_t lines;
  int width;            // voxels of a line
  uint64_t bits;        // of an element, that make it nonzero: all but the sign of a float
  bool complement;      // the mask's outside is the inside
  int log_lanes;        // of the threads that share a line, 1 to 5
  bool vector_loads;    // bytes, 16 of them aligned
  bool vector_stores;   // 16 bytes of the output aligned
  void* out;            // contiguous
  float weight;         // squared spacing
  Finish finish;        // of a single axis
  size_t element_size;  // of the mask
  NearestPass nearest;
};

// Each later pass: along one axis, the least sum of a square and the squared distance to it.
struct LinePass {
  const void* in;  // contiguous, [outer, size, inner]; `out` itself if tiles fit in shared memory
  float* out;
  int64_t columns;  // outer * inner
  int64_t inner;
  int size;
  float weight;      // squared spacing of the axis
  float run_weight;  // and of the run lengths, if those are what comes in
  bool ranges;       // whether shared memory has room for the ranges of divide and conquer
  Finish finish;
  NearestPass nearest;
};

// CUDA's square root calls a subroutine for zero and infinity, which are the commonest here. This
// is what it does for other numbers: the fast inverse root, and a step of Newton's.
__device__ inline float square_root(float x) {
  const float inverse = rsqrtf(x);
  const float root = x * inverse;
  const float better = __fmaf_rn(__fmaf_rn(-root, root, x), 0.5f * inverse, root);
  return x > 0 && x < INFINITY ? better : x;
}

// Turns squares into the result, if this is the last pass.
template <int kCount>
__device__ void finish_squares(float (&value)[kCount], const Finish& finish) {
  if (!finish.last) return;
  const float root = finish.unit_root;
  float distance[kCount];
  if (finish.squared) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) distance[i] = fabsf(value[i]) * root * root;
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) distance[i] = square_root(fabsf(value[i]));
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    distance[i] = distance[i] * root * root;
    if (finish.bounded && distance[i] == INFINITY) distance[i] = 0;
    value[i] = finish.negate && value[i] > 0 ? -distance[i] : distance[i];
  }
}

// A run length as a signed square; a square as it is.
template <class Run>
__device__ float signed_square(Run run, float weight) {
  float root = float(run);
  if (fabsf(root) >= float(kNoRun<Run>)) root *= INFINITY;
  return root * fabsf(root) * weight;
}
template <>
__device__ inline float signed_square<float>(float square, float) {
  return square;
}

}  // namespace segloss::distance_transform::cuda
