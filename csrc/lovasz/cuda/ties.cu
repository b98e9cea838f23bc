// From sorted errors to the loss and dL/dm: voxels with the same error are a group, whose
// increments they share. Blocks have neighbouring places of one row, an image and class.
#include "cuda.cuh"
#include "lovasz/cuda/increments.cuh"
#include "lovasz/cuda/sort.h"

namespace segloss::lovasz::cuda {
namespace {

constexpr int kTieThreads = 256;
constexpr int kTieWarps = kTieThreads / 32;

// The places of a block's row, and the first of the block's threads' in it.
struct Places {
  int64_t row, first, last, begin, step;
  SL_DEVICE explicit Places(const Sorted& sorted) {
    const unsigned blocks = unsigned(sorted.blocks);  // divisions of 64 bits are slow
    row = blockIdx.x / blocks;
    first = row * sorted.voxels;
    last = first + sorted.voxels;
    begin = first + int64_t(blockIdx.x % blocks) * kTieThreads + threadIdx.x;
    step = sorted.blocks * kTieThreads;
  }
};

__global__ void __launch_bounds__(kTieThreads) marks_kernel(const __grid_constant__ Sorted sorted) {
  const Places places(sorted);
  for (int64_t i = places.begin; i < places.last; i += places.step) {
    const bool head = i == places.first || sorted.keys[i] != sorted.keys[i - 1];
    sorted.heads[i] = head ? uint32_t(i) : 0;
    sorted.before[i] = sorted.values[i] & 1;
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) sorted.before[sorted.rows * sorted.voxels] = 0;
}

__global__ void __launch_bounds__(kTieThreads) ends_kernel(const __grid_constant__ Sorted sorted) {
  const Places places(sorted);
  for (int64_t i = places.begin; i < places.last; i += places.step) {
    const bool end = i + 1 == places.last || sorted.heads[i + 1] != sorted.heads[i];
    if (end) sorted.ends[sorted.heads[i]] = uint32_t(i + 1);
  }
}

// The error that a key came from; false for an ignored voxel.
SL_DEVICE bool error_of_key(unsigned long long key, float& m) {
  m = __uint_as_float(~unsigned(key) - 1);
  return unsigned(key) != ~0u;
}
SL_DEVICE bool error_of_key(unsigned long long key, double& m) {
  m = __longlong_as_double(static_cast<long long>(~key - 1));
  return key != ~0ull;
}

// The increments of the group that begins at `head`.
SL_DEVICE Increments of_group(const Sorted& sorted, const Places& places, int64_t head) {
  const int64_t end = sorted.ends[head];
  const uint32_t at_first = sorted.before[places.first], at_head = sorted.before[head];
  const int64_t total = sorted.before[places.last] - at_first, before = at_head - at_first;
  const int64_t foreground = sorted.before[end] - at_head;
  const int64_t background = end - head - foreground;
  if (total == 0) return {head == places.first ? 1 / double(background) : 0., 0.};
  return increments(total, before, head - places.first - before, foreground, background);
}

// Stores dL/dm of the voxel at a place.
template <class T>
SL_DEVICE void store_slope(const Sorted& sorted, int64_t row, uint32_t value, T slope) {
  const unsigned channels = unsigned(sorted.channels), of_item = sorted.item_voxels;
  const int64_t image = unsigned(row) / channels, c = unsigned(row) % channels;
  const uint32_t item = (value >> 1) / of_item, voxel = (value >> 1) % of_item;
  const int64_t plane = (image * sorted.items + item) * sorted.channels + c;
  static_cast<T*>(sorted.slopes)[plane * of_item + voxel] = slope;
}

template <class T>
__global__ void __launch_bounds__(kTieThreads)
    slopes_kernel(const __grid_constant__ Sorted sorted) {
  const Places places(sorted);
  const bool valid = sorted.flagged[places.row] == 0;
  double loss = 0;
  for (int64_t i = places.begin; i < places.last; i += places.step) {
    const uint32_t value = sorted.values[i];
    T m = 0;
    double slope = 0;
    // A hinge of 0 is no error.
    if (error_of_key(sorted.keys[i], m) && !(sorted.hinge && m == 0)) {
      const Increments of = of_group(sorted, places, sorted.heads[i]);
      slope = (value & 1) != 0 ? of.foreground : of.background;
      loss += slope * double(m);
    }
    if (sorted.slopes == nullptr) continue;
    store_slope(sorted, places.row, value, valid ? T(slope) : Constants<T>::kNan);
  }
  auto* const sums = reinterpret_cast<double*>(dynamic_shared());
#pragma unroll
  for (int step = 16; step > 0; step /= 2) loss += __shfl_xor_sync(0xffffffffu, loss, step);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = loss;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kTieWarps; ++i) loss += sums[i];
  sorted.partial[blockIdx.x] = loss;
}

// A warp is a row.
__global__ void __launch_bounds__(kTieThreads) total_kernel(const __grid_constant__ Sorted sorted) {
  const int64_t row = (int64_t(blockIdx.x) * kTieThreads + threadIdx.x) / 32;
  if (row >= sorted.rows) return;
  double loss = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x % 32; i < sorted.blocks; i += 32) {
    loss += sorted.partial[row * sorted.blocks + i];
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) loss += __shfl_xor_sync(0xffffffffu, loss, step);
  if (threadIdx.x % 32 != 0) return;
  const int64_t first = row * sorted.voxels, last = first + sorted.voxels;
  sorted.loss[row] = sorted.flagged[row] == 0 ? loss : Constants<double>::kNan;
  sorted.foreground[row] = double(sorted.before[last] - sorted.before[first]);
}

LaunchShape shape_of(const Sorted& sorted, size_t shared_bytes, cudaStream_t stream) {
  return {static_cast<unsigned>(sorted.rows * sorted.blocks), kTieThreads, shared_bytes, stream};
}

}  // namespace

void launch_marks(const Sorted& sorted, cudaStream_t stream) {
  segloss::launch(shape_of(sorted, 0, stream), marks_kernel, sorted);
}

void launch_ends(const Sorted& sorted, cudaStream_t stream) {
  segloss::launch(shape_of(sorted, 0, stream), ends_kernel, sorted);
}

void launch_slopes(const Sorted& sorted, bool is_double, cudaStream_t stream) {
  segloss::launch(shape_of(sorted, kTieWarps * sizeof(double), stream),
                  is_double ? slopes_kernel<double> : slopes_kernel<float>, sorted);
  const auto blocks = static_cast<unsigned>((sorted.rows + kTieWarps - 1) / kTieWarps);
  segloss::launch({blocks, kTieThreads, 0, stream}, total_kernel, sorted);
}

}  // namespace segloss::lovasz::cuda
