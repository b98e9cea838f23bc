// Adds the chunks' sums in a fixed order. Where any label was invalid all rows become NaN, without
// the host having to know.
#pragma once

#include "cuda.cuh"
#include "region_sums/cuda/problem.h"
#include "voxels/cuda/math.cuh"

namespace segloss::region_sums::cuda {

constexpr int kReduceLanes = 4;    // neighbouring classes: 32 bytes, what memory gives at a time
constexpr int kReducePhases = 64;  // that share the chunks of an item
constexpr int kReduceThreads = kReduceLanes * kReducePhases;
// What a thread asks for before it adds any: all that 1152 chunks leave, and 1280 of their flags.
// The time of this kernel is that of waiting for memory, and so it waits once.
constexpr int kSumsAtOnce = 18;
constexpr int kFlagsAtOnce = 5;

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

// How many labels of a thread's chunks are invalid, and in which chunk the first is.
struct Flags {
  double count;
  int64_t chunk;
};

SL_DEVICE void add_flag(Flags& flags, double found, int64_t chunk) {
  if (found > 0 && flags.count == 0) flags.chunk = chunk;
  flags.count += found;
}

// Adds the threads' numbers, and writes them with the value of the first invalid label.
SL_DEVICE void write_invalid_total(const Reduction& reduction, const Flags& flags, bool any,
                                   double* memory) {
  if (any) {
    double* const firsts = memory + kReduceThreads;
    memory[threadIdx.x] = flags.count;
    firsts[threadIdx.x] = double(flags.count > 0 ? flags.chunk : reduction.chunks);  // exact
    __syncthreads();
    for (int step = kReduceThreads / 2; step > 0; step /= 2) {
      const int other = int(threadIdx.x) + step;
      if (int(threadIdx.x) < step) {
        memory[threadIdx.x] += memory[other];
        firsts[threadIdx.x] = smaller(firsts[threadIdx.x], firsts[other]);
      }
      __syncthreads();
    }
  }
  if (threadIdx.x == 0) {
    reduction.invalid_total[0] = any ? memory[0] : 0;
    reduction.invalid_total[1] = any ? reduction.invalid[int64_t(memory[kReduceThreads])].y : 0;
  }
  __syncthreads();
}

// A thread's share of what is to be added: every kReducePhases-th chunk from its own one on.
struct Share {
  const double* from;  // the item's first chunk
  unsigned stride;     // an item's sums are fewer than 2^31, see wanted_chunks()
  unsigned chunks;

  // Behind the last chunk that one is loaded again, without a branch, and not added.
  SL_DEVICE void load(unsigned first, double (&found)[kSumsAtOnce]) const {
#pragma unroll
    for (unsigned k = 0; k < kSumsAtOnce; ++k) {
      found[k] = from[min(first + k * kReducePhases, max(chunks, 1u) - 1) * stride];
    }
  }

  SL_DEVICE double add(unsigned first, const double (&found)[kSumsAtOnce]) const {
    double sum = 0;
#pragma unroll
    for (unsigned k = 0; k < kSumsAtOnce; ++k) {
      sum += first + k * kReducePhases < chunks ? found[k] : 0;
    }
    return sum;
  }
};

// Each block adds neighbouring classes of one row and item. Its bounds say that a multiprocessor
// need hold but one: otherwise the compiler saves registers, and waits for one or two loads at a
// time.
__global__ void __launch_bounds__(kReduceThreads, 1)
    reduce_kernel(const __grid_constant__ Reduction reduction) {
  auto* const memory = reinterpret_cast<double*>(dynamic_shared());
  const auto thread = int(threadIdx.x);
  const int groups = (reduction.channels + kReduceLanes - 1) / kReduceLanes;
  const int row_item = int(blockIdx.x) / groups;
  const int64_t item = reduction.first_item + row_item / reduction.rows;
  const int row = row_item % reduction.rows;
  const int c = int(blockIdx.x) % groups * kReduceLanes + thread % kReduceLanes;
  const bool inside = c < reduction.channels && item < reduction.items;
  int i = 0;
  while (i + 1 < reduction.levels && item >= reduction.level[i + 1].first_item) ++i;
  const ReduceLevel& level = reduction.level[i];
  const int64_t first = level.first_chunk + (item - level.first_item) * level.item_chunks;
  const int64_t stride = int64_t(reduction.rows) * reduction.channels;
  Share share{reduction.partial, unsigned(stride), inside ? unsigned(level.item_chunks) : 0};
  if (share.chunks > 0) share.from += first * stride + row * reduction.channels + c;
  double mine = 0;
  Flags flags{0, 0};
  if (reduction.chunks > 0) {
    double found[kSumsAtOnce], flagged[kFlagsAtOnce];
    unsigned n = unsigned(thread) / kReduceLanes;
    share.load(n, found);
#pragma unroll
    for (int k = 0; k < kFlagsAtOnce; ++k) {
      const int64_t chunk = thread + k * kReduceThreads;
      flagged[k] = reduction.invalid[min(chunk, reduction.chunks - 1)].x;
    }
    mine = share.add(n, found);
#pragma unroll
    for (int k = 0; k < kFlagsAtOnce; ++k) {
      const int64_t chunk = thread + k * kReduceThreads;
      add_flag(flags, chunk < reduction.chunks ? flagged[k] : 0, chunk);
    }
#pragma unroll 1
    while ((n += kSumsAtOnce * kReducePhases) < share.chunks) {
      share.load(n, found);
      mine += share.add(n, found);
    }
#pragma unroll 1
    for (int64_t chunk = thread + kFlagsAtOnce * kReduceThreads; chunk < reduction.chunks;
         chunk += kReduceThreads) {
      add_flag(flags, reduction.invalid[chunk].x, chunk);
    }
  }
  const bool any = __syncthreads_or(flags.count > 0) != 0;
  if (blockIdx.x == 0 && reduction.invalid_total != nullptr) {
    write_invalid_total(reduction, flags, any, memory);
  }
  memory[thread] = mine;
  __syncthreads();
  for (int step = kReduceThreads / 2; step >= kReduceLanes; step /= 2) {
    if (thread < step) memory[thread] += memory[thread + step];
    __syncthreads();
  }
  if (thread >= kReduceLanes || !inside) return;
  reduction.sums[(row * reduction.items + item) * reduction.channels + c] =
      any ? Constants<double>::kNan : memory[thread];
}

}  // namespace segloss::region_sums::cuda
