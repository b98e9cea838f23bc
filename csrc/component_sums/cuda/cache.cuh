// The sums of the bins that a warp has met last, in shared memory: a few slots for each class. A
// voxel's bin is mostly that of the voxel before, so that hardly any sum goes to global memory
// before its block ends. Which sums are added to which depends on the voxels alone.
#pragma once

#include "component_sums/cuda/limbs.cuh"
#include "component_sums/cuda/tile.cuh"
#include "cuda.cuh"

namespace segloss::component_sums::cuda {

// Where the sums of a warp's runs stand while they are handed to its slots, [row][lane]; rows are
// 33 apart, so that neither lanes nor rows meet in a bank.
constexpr int kScratchRow = 33;

// How a block's shared memory is cut.
struct CacheShape {
  int classes, rows, slots;

  __host__ __device__ explicit CacheShape(const Launch& launch)
      : classes(int(launch.problem.channels)), rows(launch.problem.rows), slots(launch.slots) {}

  // Of a warp: sums [class][slot][row], runs, bins [class][slot], the slot to give up next [class].
  __host__ __device__ size_t sums() const { return size_t(classes) * slots * rows; }
  __host__ __device__ size_t runs() const { return size_t(rows) * kScratchRow; }
  __host__ __device__ size_t words() const {
    return slots == 0 ? 0 : size_t(classes) * (slots + 1);
  }
  __host__ __device__ size_t bytes() const {
    return kWarps * ((sums() + runs()) * sizeof(double) + words() * sizeof(int32_t));
  }
};

struct Cache {
  const Launch& launch;
  int64_t item;

  SL_DEVICE Cache(const Launch& launch, int64_t item) : launch(launch), item(item) {
    const int lane = int(threadIdx.x) % 32;
    int32_t* const words = bins(warp(), 0);
    for (int i = lane; i < int(shape().words()); i += 32) {
      words[i] = i < shape().classes * shape().slots ? kNowhere : 0;
    }
    __syncwarp();
  }

  SL_DEVICE static int warp() { return int(threadIdx.x) / 32; }
  SL_DEVICE static double* memory() { return reinterpret_cast<double*>(dynamic_shared()); }
  // Anew each time, from the kernel's parameter: it would take registers.
  SL_DEVICE CacheShape shape() const { return CacheShape(launch); }

  // The sums of a warp's slots for a class.
  SL_DEVICE double* sums(int warp, int c) const {
    return memory() + warp * (shape().sums() + shape().runs()) + c * shape().slots * shape().rows;
  }
  SL_DEVICE double* runs() const { return sums(warp(), 0) + shape().sums(); }
  SL_DEVICE int32_t* bins(int warp, int c) const {
    auto* const words =
        reinterpret_cast<int32_t*>(memory() + kWarps * (shape().sums() + shape().runs()));
    return words + warp * shape().words() + c * shape().slots;
  }
  SL_DEVICE int32_t* next() const { return bins(warp(), shape().classes); }

  // Lane r adds row r to a bin of class c in global memory.
  SL_DEVICE void flush(int c, int32_t bin, double mine) const {
    const int lane = int(threadIdx.x) % 32;
    if (lane >= shape().rows) return;
    const int64_t at = (item * shape().classes + c) * launch.problem.places() + bin;
    accumulate(launch.to, at, shape().rows, lane, mine);
  }

  // Lane r adds row r to a bin of class c.
  SL_DEVICE void add(int c, int32_t bin, double mine) const {
    if (shape().slots == 0) return flush(c, bin, mine);
    const int lane = int(threadIdx.x) % 32;
    int32_t* const held = bins(warp(), c);
    double* const of_class = sums(warp(), c);
    const int32_t own = lane < shape().slots ? held[lane] : kNowhere;
    const unsigned found = __ballot_sync(kAllLanes, own == bin);
    const int slot = found != 0 ? __ffs(int(found)) - 1 : next()[c];
    double* const sum = of_class + slot * shape().rows + lane;
    if (found != 0) {
      if (lane < shape().rows) *sum += mine;
    } else {
      const int32_t before = __shfl_sync(kAllLanes, own, slot);
      if (before != kNowhere) flush(c, before, lane < shape().rows ? *sum : 0);
      __syncwarp();  // all have read which slot
      if (lane < shape().rows) *sum = mine;
      if (lane == 0) {
        held[slot] = bin;
        next()[c] = slot + 1 < shape().slots ? slot + 1 : 0;
      }
    }
    __syncwarp();
  }

  // Adds the runs that begin at the lanes `heads`, whose rows stand in runs().
  SL_DEVICE void add_runs(int c, unsigned heads, int32_t bin) const {
    const int lane = int(threadIdx.x) % 32;
    __syncwarp();
    while (heads != 0) {
      const int head = __ffs(int(heads)) - 1;
      heads &= heads - 1;
      const double mine = lane < shape().rows ? runs()[lane * kScratchRow + head] : 0;
      add(c, __shfl_sync(kAllLanes, bin, head), mine);
    }
    __syncwarp();
  }

  // The slots of all warps go to global memory, those of one bin together: the first warp that has
  // it adds them, in the order of the warps. All threads of the block must have come.
  SL_DEVICE void finish() const {
    for (int c = 0; c < shape().classes; ++c) {
      for (int slot = 0; slot < shape().slots; ++slot) {
        const int32_t bin = bins(warp(), c)[slot];
        if (bin == kNowhere) break;  // they are taken in order
        finish(c, bin);
      }
    }
  }

 private:
  SL_DEVICE void finish(int c, int32_t bin) const {
    const int lane = int(threadIdx.x) % 32;
    double mine = 0;
    for (int first = 0; first < kWarps * shape().slots; first += 32) {
      const int at = first + lane, of_warp = at / shape().slots;
      const bool equal = of_warp < kWarps && bins(of_warp, c)[at - of_warp * shape().slots] == bin;
      unsigned found = __ballot_sync(kAllLanes, equal);
      while (found != 0) {
        const int other = first + __ffs(int(found)) - 1;
        found &= found - 1;
        const int from = other / shape().slots;
        if (from < warp()) return;  // all lanes alike
        if (lane < shape().rows) {
          mine += sums(from, c)[(other - from * shape().slots) * shape().rows + lane];
        }
      }
    }
    flush(c, bin, mine);
  }
};

}  // namespace segloss::component_sums::cuda
