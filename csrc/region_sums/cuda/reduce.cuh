// Adds the chunks' sums in a fixed order. Where any label was invalid all rows become NaN, without
// the host having to know.
#pragma once

#include "cuda.cuh"
#include "region_sums/cuda/problem.h"
#include "voxels/cuda/math.cuh"

namespace segloss::region_sums::cuda {

constexpr int kReduceLanes = 32;   // neighbouring classes
constexpr int kReducePhases = 16;  // that share the chunks of an item
constexpr int kReduceThreads = kReduceLanes * kReducePhases;

struct ReduceLevel {
  int64_t first_item;
  int64_t first_chunk;
  int64_t item_chunks;
};

struct Reduction {
  ReduceLevel level[kMaxLevels];
  int levels;
  int64_t first_item;  // the launch's items
  int64_t items;       // of all launches
  int64_t chunks;      // of all launches
  int channels;
  int rows;
  const double* partial;
  const double2* invalid;
  double* sums;           // [rows, items, classes]
  double* invalid_total;  // [2], or null
};

// Whether a label of any chunk is invalid; the first block also writes how many and the first.
SL_DEVICE bool reduce_invalid(const Reduction& reduction, double* memory) {
  int64_t chunk = reduction.chunks;  // the thread's first with invalid labels
  double count = 0;
  for (int64_t i = threadIdx.x; i < reduction.chunks; i += kReduceThreads) {
    const double found = reduction.invalid[i].x;
    if (found > 0 && chunk == reduction.chunks) chunk = i;
    count += found;
  }
  const bool any = __syncthreads_or(count > 0) != 0;
  if (blockIdx.x != 0 || reduction.invalid_total == nullptr) return any;
  double* const first_chunk = memory + kReduceThreads;
  memory[threadIdx.x] = count;
  first_chunk[threadIdx.x] = double(chunk);  // exact
  __syncthreads();
  if (threadIdx.x == 0) {
    double first = first_chunk[0];
    for (int i = 1; i < kReduceThreads; ++i) {
      count += memory[i];
      if (first_chunk[i] < first) first = first_chunk[i];
    }
    reduction.invalid_total[0] = count;
    reduction.invalid_total[1] = any ? reduction.invalid[int64_t(first)].y : 0;
  }
  __syncthreads();
  return any;
}

// Each block adds up to 32 classes of one row and item.
__global__ void __launch_bounds__(kReduceThreads)
    reduce_kernel(const __grid_constant__ Reduction reduction) {
  auto* const memory = reinterpret_cast<double*>(dynamic_shared());
  const bool any = reduce_invalid(reduction, memory);
  const int groups = (reduction.channels + kReduceLanes - 1) / kReduceLanes;
  const int64_t row_item = blockIdx.x / groups;
  const int64_t item = reduction.first_item + row_item / reduction.rows;
  const int row = int(row_item % reduction.rows);
  const int lane = int(threadIdx.x) % kReduceLanes, phase = int(threadIdx.x) / kReduceLanes;
  const int c = int(blockIdx.x % groups) * kReduceLanes + lane;
  int i = 0;
  while (i + 1 < reduction.levels && item >= reduction.level[i + 1].first_item) ++i;
  const ReduceLevel& level = reduction.level[i];
  const int64_t first = level.first_chunk + (item - level.first_item) * level.item_chunks;
  const int64_t stride = int64_t(reduction.rows) * reduction.channels;
  double sum = 0;
  if (c < reduction.channels && item < reduction.items) {
    const double* const from = reduction.partial + first * stride + row * reduction.channels + c;
#pragma unroll 4
    for (int64_t n = phase; n < level.item_chunks; n += kReducePhases) sum += from[n * stride];
  }
  memory[threadIdx.x] = sum;
  __syncthreads();
  if (phase != 0 || c >= reduction.channels || item >= reduction.items) return;
  for (int p = 1; p < kReducePhases; ++p) sum += memory[p * kReduceLanes + lane];
  reduction.sums[(row * reduction.items + item) * reduction.channels + c] =
      any ? Constants<double>::kNan : sum;
}

}  // namespace segloss::region_sums::cuda
