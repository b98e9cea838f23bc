// What follows the counting: sums of the blocks' parts, and counts as the operator returns them.
#include "cuda.cuh"
#include "lovasz/cuda/launch.h"

namespace segloss::lovasz::cuda {
namespace {

constexpr int kFinishThreads = 256;
constexpr int kPackedShift = 36;  // see counters.cuh

__global__ void __launch_bounds__(kFinishThreads)
    unpack_kernel(const __grid_constant__ Unpacking unpacking) {
  const int64_t i = int64_t(blockIdx.x) * kFinishThreads + threadIdx.x;
  if (i >= unpacking.counters) return;
  const unsigned long long word = unpacking.packed[i];
  unpacking.packed[i] = 0;
  const auto count = int64_t(word >> kPackedShift);
  const auto sum = int64_t(word & ((1ull << kPackedShift) - 1));
  int64_t* const counts = unpacking.counts + i;
  int64_t* const offsets = counts + unpacking.counters;
  *counts = (unpacking.adds ? *counts : 0) + count;
  // Of 16 bits, each amid those that have its upper 8.
  *offsets = (unpacking.adds ? *offsets : 0) + 256 * sum + 128 * count;
}

// One block adds the numbers of invalid labels, and finds the first.
SL_DEVICE void finish_invalid(const Finishing& finishing, int64_t chunks, double* memory) {
  double count = 0, first = double(chunks);  // numbers of chunks are exact
  for (int64_t i = threadIdx.x; i < chunks; i += kFinishThreads) {
    const double found = finishing.partial.invalid[i].x;
    if (found > 0 && count == 0) first = double(i);
    count += found;
  }
  double* const firsts = memory + kFinishThreads;
  memory[threadIdx.x] = count;
  firsts[threadIdx.x] = first;
  __syncthreads();
  for (int step = kFinishThreads / 2; step > 0; step /= 2) {
    const int other = int(threadIdx.x) + step;
    if (int(threadIdx.x) < step) {
      memory[threadIdx.x] += memory[other];
      firsts[threadIdx.x] = smaller(firsts[threadIdx.x], firsts[other]);
    }
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  finishing.invalid[0] = memory[0];
  finishing.invalid[1] = memory[0] > 0 ? finishing.partial.invalid[int64_t(firsts[0])].y : 0;
}

// A warp is an image and class.
__global__ void __launch_bounds__(kFinishThreads)
    finish_kernel(const __grid_constant__ Finishing finishing) {
  const int64_t in_slab = finishing.images * finishing.chunks;
  if (blockIdx.x == 0) {
    finish_invalid(finishing, finishing.slabs * in_slab,
                   reinterpret_cast<double*>(dynamic_shared()));
  }
  const int64_t row = (int64_t(blockIdx.x) * kFinishThreads + threadIdx.x) / 32;
  if (row >= finishing.images * finishing.channels) return;
  const int64_t image = row / finishing.channels, c = row % finishing.channels;
  double entropy = 0, flagged = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x % 32; i < finishing.slabs * finishing.chunks; i += 32) {
    const int64_t slab = i / finishing.chunks, of_image = i % finishing.chunks;
    const int64_t chunk = slab * in_slab + image * finishing.chunks + of_image;
    entropy += finishing.partial.cross_entropy[chunk * finishing.channels + c];
    flagged += finishing.partial.flagged[chunk * finishing.channels + c];
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    entropy += __shfl_xor_sync(0xffffffffu, entropy, step);
    flagged += __shfl_xor_sync(0xffffffffu, flagged, step);
  }
  if (threadIdx.x % 32 != 0) return;
  finishing.flagged[row] = flagged;
  finishing.cross_entropy[row] = entropy;
}

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>((threads + kFinishThreads - 1) / kFinishThreads);
}

}  // namespace

void launch_unpack(const Unpacking& unpacking, cudaStream_t stream) {
  segloss::launch({blocks_for(unpacking.counters), kFinishThreads, 0, stream}, unpack_kernel,
                  unpacking);
}

void launch_finish(const Finishing& finishing, cudaStream_t stream) {
  segloss::launch({blocks_for(finishing.images * finishing.channels * 32), kFinishThreads,
                   2 * kFinishThreads * sizeof(double), stream},
                  finish_kernel, finishing);
}

}  // namespace segloss::lovasz::cuda
