// From counts to losses and increments. The bins of an image and class, in descending order, are
// several blocks' pieces: each adds up what comes before its own, and leaves a part of the loss.
// A thread has neighbouring bins.
#include "cuda.cuh"
#include "lovasz/cuda/increments.cuh"
#include "lovasz/cuda/launch.h"

namespace segloss::lovasz::cuda {
namespace {

constexpr int kScanThreads = 512, kAddThreads = 128;
constexpr int kScanWarps = kScanThreads / 32;
constexpr unsigned kAll = 0xffffffffu;

struct ScanShared {
  int64_t foreground[kScanWarps], background[kScanWarps], total[kScanWarps];
  double loss[kScanWarps];
  int highest[kScanWarps];
};

SL_DEVICE int64_t inclusive_of_warp(int64_t value) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int64_t other = __shfl_up_sync(kAll, value, unsigned(step));
    value += int(threadIdx.x) % 32 >= step ? other : 0;
  }
  return value;
}

// The counters of an image and class.
struct BinCounts {
  const int64_t* counts;
  const int64_t* offsets;
  int bins;
  SL_DEVICE BinCounts(const ScanLaunch& launch, int64_t row) : bins(launch.bins.count) {
    counts = launch.counts + row * 2 * bins;
    offsets = counts + launch.rows * 2 * bins;
  }
  SL_DEVICE int64_t background(int k) const { return counts[k]; }
  SL_DEVICE int64_t foreground(int k) const { return counts[bins + k]; }
};

// Where bin k lies, counted from a point that errors crowd at: distances from it.
struct Extent {
  double lower, width;

  SL_DEVICE Extent(int k, int bits, int log_tau) {
    const int above = (k >> bits) - 1;  // the octave, -1 below tau
    const int octave = above < 0 ? 0 : above, within = k & ((1 << bits) - 1);
    width = ldexp(1., log_tau + octave - bits);
    lower = width * double(above < 0 ? within : within + (1 << bits));
  }

  // The sum of n distances.
  SL_DEVICE double sum(int64_t n, int64_t offsets) const {
    return double(n) * lower + (double(offsets) + 0.5 * double(n)) * (width / 65536);
  }
};

// The sum of the errors of n voxels in bin k; of the hinge not in bin 0, which is for no error.
SL_DEVICE double sum_of_errors(const Bins& bins, int k, int64_t n, int64_t offsets) {
  if (bins.two_sided) {
    const int run = k / bins.run;
    const bool rises = run % 2 == 0;
    const int index = rises ? k - run * bins.run : (run + 1) * bins.run - 1 - k;
    const double sum = Extent(index, bins.bits, bins.log_tau).sum(n, offsets);
    return 0.5 * double((run + 1) / 2) * double(n) + (rises ? sum : -sum);
  }
  const int up = k - 1 - bins.run;
  if (up < 0) return double(n) - Extent(-1 - up, bins.bits, bins.log_tau).sum(n, offsets);
  // Of a quarter of the parts, above 2^5: up to there would be one run of them.
  const int parts = bins.bits - 2;
  const Extent extent = up < bins.fine ? Extent(up, bins.bits, bins.log_tau)
                                       : Extent(up - bins.fine + (1 << parts), parts, 5);
  return double(n) + extent.sum(n, offsets);
}

// The voxels before a bin, all foreground, and the highest bin with a background voxel that is an
// error.
struct Before {
  int64_t foreground, background, total;
  int highest;
};

SL_DEVICE int64_t sum_of_warp(int64_t value) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAll, value, step);
  return value;
}

// What comes before the block's first bin, the `begin`-th in descending order, by all its threads.
SL_DEVICE Before before_piece(const BinCounts& of, int begin, int lowest, ScanShared& s) {
  Before found{0, 0, 0, -1};
  for (int i = int(threadIdx.x); i < of.bins; i += kScanThreads) {
    const int k = of.bins - 1 - i;
    const int64_t foreground = of.foreground(k), background = of.background(k);
    found.total += foreground;
    found.foreground += i < begin ? foreground : 0;
    found.background += i < begin ? background : 0;
    if (found.highest < 0 && k >= lowest && background > 0) found.highest = k;
  }
  const int warp = int(threadIdx.x) / 32;
  found = {sum_of_warp(found.foreground), sum_of_warp(found.background), sum_of_warp(found.total),
           __reduce_max_sync(kAll, found.highest)};
  if (threadIdx.x % 32 == 0) {
    s.foreground[warp] = found.foreground;
    s.background[warp] = found.background;
    s.total[warp] = found.total;
    s.highest[warp] = found.highest;
  }
  __syncthreads();
  Before before{0, 0, 0, -1};
  for (int i = 0; i < kScanWarps; ++i) {
    before.foreground += s.foreground[i];
    before.background += s.background[i];
    before.total += s.total[i];
    before.highest = s.highest[i] > before.highest ? s.highest[i] : before.highest;
  }
  __syncthreads();  // the next sums go to the same memory
  return before;
}

// The same before the thread's first bin, given that before the block's.
SL_DEVICE Before scan_block(const BinCounts& of, int first, int last, Before before,
                            ScanShared& s) {
  const int warp = int(threadIdx.x) / 32;
  int64_t foreground = 0, background = 0;
  for (int i = first; i < last; ++i) {
    foreground += of.foreground(of.bins - 1 - i);
    background += of.background(of.bins - 1 - i);
  }
  const int64_t foregrounds = inclusive_of_warp(foreground);
  const int64_t backgrounds = inclusive_of_warp(background);
  if (threadIdx.x % 32 == 31) {
    s.foreground[warp] = foregrounds;
    s.background[warp] = backgrounds;
  }
  __syncthreads();
  before.foreground += foregrounds - foreground;
  before.background += backgrounds - background;
  for (int i = 0; i < warp; ++i) {
    before.foreground += s.foreground[i];
    before.background += s.background[i];
  }
  return before;
}

template <class T>
__global__ void __launch_bounds__(kScanThreads)
    scan_kernel(const __grid_constant__ ScanLaunch launch) {
  auto& s = *reinterpret_cast<ScanShared*>(dynamic_shared());
  const int64_t row = blockIdx.x / kScanPieces;
  const Bins& bins = launch.bins;
  const BinCounts of(launch, row);
  T* const table = static_cast<T*>(launch.table) + row * 2 * bins.count;
  const int lowest = bins.two_sided ? 0 : 1;  // of the bins that hold errors
  const int in_piece = (bins.count + kScanPieces - 1) / kScanPieces;
  const int begin = int(blockIdx.x % kScanPieces) * in_piece;
  const int end = begin + in_piece < bins.count ? begin + in_piece : bins.count;
  const int each = (in_piece + kScanThreads - 1) / kScanThreads;
  const int start = begin + int(threadIdx.x) * each;
  const int first = start < end ? start : end;
  const int last = first + each < end ? first + each : end;
  Before before = scan_block(of, first, last, before_piece(of, begin, lowest, s), s);
  const bool valid = launch.flagged[row] == 0;
  double loss = 0;
  for (int i = first; i < last; ++i) {
    const int k = bins.count - 1 - i;
    const bool holds = k >= lowest;
    const int64_t foreground = holds ? of.foreground(k) : 0;
    const int64_t background = holds ? of.background(k) : 0;
    Increments g{0, 0};
    if (before.total == 0) {
      // The largest error alone counts, which the voxels of its bin share.
      g.background = k == before.highest ? 1 / double(background) : 0;
    } else {
      g = increments(before.total, before.foreground, before.background, foreground, background);
    }
    if (holds) {
      loss += g.background * sum_of_errors(bins, k, background, of.offsets[k]);
      loss += g.foreground * sum_of_errors(bins, k, foreground, of.offsets[bins.count + k]);
    }
    before.foreground += foreground;
    before.background += background;
    table[k] = valid ? T(g.background) : Constants<T>::kNan;
    table[bins.count + k] = valid ? T(g.foreground) : Constants<T>::kNan;
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) loss += __shfl_xor_sync(kAll, loss, step);
  if (threadIdx.x % 32 == 0) s.loss[threadIdx.x / 32] = loss;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kScanWarps; ++i) loss += s.loss[i];
  launch.parts[blockIdx.x] = loss;
}

// A thread is an image and class.
__global__ void __launch_bounds__(kAddThreads)
    add_kernel(const __grid_constant__ ScanLaunch launch) {
  const int64_t row = int64_t(blockIdx.x) * kAddThreads + threadIdx.x;
  if (row >= launch.rows) return;
  double loss = 0;
  for (int piece = 0; piece < kScanPieces; ++piece) loss += launch.parts[row * kScanPieces + piece];
  launch.loss[row] = launch.flagged[row] == 0 ? loss : Constants<double>::kNan;
}

}  // namespace

void launch_scan(const ScanLaunch& launch, bool double_table, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(launch.rows * kScanPieces);
  const LaunchShape pieces{blocks, kScanThreads, sizeof(ScanShared), stream};
  segloss::launch(pieces, double_table ? scan_kernel<double> : scan_kernel<float>, launch);
  const LaunchShape sums{static_cast<unsigned>((launch.rows + kAddThreads - 1) / kAddThreads),
                         kAddThreads, 0, stream};
  segloss::launch(sums, add_kernel, launch);
}

}  // namespace segloss::lovasz::cuda
