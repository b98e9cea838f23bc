// Tiles of 32 neighbouring columns: what a block keeps of one in shared memory, and how it decides
// which way to search it.
#pragma once

#include "cuda.cuh"
#include "distance_transform/cuda/problem.h"

namespace segloss::distance_transform {

constexpr unsigned kWarp = 0xffffffffu;
constexpr int kAtOnce = 8;  // loads that a thread has in flight

// Rows of a tile that hold a finite square in some column: no others are candidates. One entry per
// side, positive squares first.
struct Survey {
  int first[2];
  int last[2];
  unsigned steps;  // about how many rows apart brute force would look, summed over the rows
};

// Shared memory: a Survey, the range per row if there is room, then the staged squares.
constexpr size_t kSurveyBytes = 32;
static_assert(sizeof(Survey) <= kSurveyBytes);

__device__ inline Survey& shared_survey() { return *reinterpret_cast<Survey*>(dynamic_shared()); }
__device__ inline int2* shared_ranges() {
  return reinterpret_cast<int2*>(dynamic_shared() + kSurveyBytes);
}

// The thread's own column of the tile: signed squares if the pass has two sides, else squares.
template <class In, bool kTwoSided, bool kStaged>
struct Column {
  const LinePass& pass;
  bool exists;   // a tile at the end may lack columns; they hold zeros
  int64_t base;  // of row 0
  float* staged;

  __device__ explicit Column(const LinePass& p) : pass(p) {
    const int lane = int(threadIdx.x % kLanes);
    const int64_t index = int64_t(blockIdx.x) * kLanes + lane;
    exists = index < p.columns;
    // 64-bit divisions are slow.
    const bool narrow = p.columns < (int64_t(1) << 31);
    const int64_t outer = narrow ? uint32_t(index) / uint32_t(p.inner) : index / p.inner;
    base = outer * p.inner * p.size + (index - outer * p.inner);
    staged = nullptr;
    if constexpr (kStaged) staged = reinterpret_cast<float*>(shared_ranges() + p.size) + lane;
  }

  __device__ int64_t address(int row) const { return base + row * pass.inner; }

  __device__ float loaded(int row) const {
    if (!exists) return 0;
    const float square =
        signed_square<In>(static_cast<const In*>(pass.in)[address(row)], pass.run_weight);
    return kTwoSided ? square : fmaxf(square, 0.0f);
  }

  __device__ float operator[](int row) const {
    if constexpr (kStaged) {
      return staged[row * kLanes];
    } else {
      return loaded(row);
    }
  }

  __device__ void store(int row, float square) const {
    if (exists) pass.out[address(row)] = finished(square, pass.finish);
  }
};

// The square that a row offers to voxels of one side.
template <bool kTwoSided>
__device__ float offered(float square, bool positive) {
  if constexpr (!kTwoSided) return square;
  return fmaxf(positive ? square : -square, 0.0f);
}

// Reads the tile once. Ends with a barrier.
template <class In, bool kTwoSided, bool kStaged>
__device__ void survey_tile(const Column<In, kTwoSided, kStaged>& column, const LinePass& p) {
  const int warps = int(blockDim.x / kLanes), warp = int(threadIdx.x / kLanes);
  Survey& found = shared_survey();
  if (threadIdx.x == 0) found = {{p.size, p.size}, {-1, -1}, 0};
  int first[2] = {p.size, p.size}, last[2] = {-1, -1};
  unsigned steps = 0;
  const float per_step = rsqrtf(p.weight);
  for (int begin = warp; begin < p.size; begin += kAtOnce * warps) {
    float square[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int row = begin + i * warps;
      square[i] = row < p.size ? column.loaded(row) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int row = begin + i * warps;
      if (row >= p.size) break;
      if constexpr (kStaged) column.staged[row * kLanes] = square[i];
#pragma unroll
      for (int side = 0; side <= int(kTwoSided); ++side) {
        const bool finite = offered<kTwoSided>(square[i], side == 0) < INFINITY;
        if (__any_sync(kWarp, column.exists && finite) == 0) continue;
        first[side] = min(first[side], row);
        last[side] = row;
      }
      const unsigned bits = __float_as_uint(fabsf(square[i]));  // ordered as the numbers are
      const float most = __uint_as_float(__reduce_max_sync(kWarp, bits));
      // A fast square root; infinity gives NaN, and that, by fminf, all rows.
      const float root = most * rsqrtf(fmaxf(most, 1e-30f)) * per_step;
      steps += unsigned(fminf(root, float(p.size)));
    }
  }
  __syncthreads();
  if (threadIdx.x % kLanes == 0) {
#pragma unroll
    for (int side = 0; side <= int(kTwoSided); ++side) {
      atomicMin(&found.first[side], first[side]);
      atomicMax(&found.last[side], last[side]);
    }
    atomicAdd(&found.steps, steps);
  }
  __syncthreads();
}

}  // namespace segloss::distance_transform
