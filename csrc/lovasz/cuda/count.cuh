// Reads logits and labels once and gives each voxel of each class to a sink: the counters of bins,
// or the keys of the sort. A block works on a chunk of an image's tiles, and a group of its
// classes.
#pragma once

#include "lovasz/cuda/counters.cuh"
#include "lovasz/cuda/tile.cuh"

namespace segloss::lovasz::cuda {

// Which part of the work is a block's. Those that read the same voxels for different groups of
// classes are neighbours: all but one find them in the second-level cache.
struct CountBlock {
  int64_t image, begin, end;  // tiles of the image
  int64_t chunk;              // among all of the call
  int group, first, last;     // classes

  SL_DEVICE explicit CountBlock(const CountLaunch& launch) {
    const int64_t block = blockIdx.x, of_slab = block / launch.groups;
    const int64_t classes = launch.problem.channels;
    group = int(block % launch.groups);
    first = int(group * classes / launch.groups);
    last = int((group + 1) * classes / launch.groups);
    image = of_slab / launch.chunks;
    begin = launch.slab_begin + of_slab % launch.chunks * launch.chunk_tiles;
    const int64_t next = begin + launch.chunk_tiles;
    end = next < launch.slab_end ? next : launch.slab_end;
    chunk = launch.first_chunk + of_slab;
  }
};

constexpr size_t kCountFixedBytes = sizeof(InvalidLabels);

// Of shared memory, for each class of a block.
inline size_t count_class_bytes(bool counters, int bins) {
  return kWarps * sizeof(double) + 2 * sizeof(unsigned) +
         (counters ? 2 * bins * sizeof(unsigned) : 0);
}

struct CountShared {
  InvalidLabels* invalid;
  double* cross_entropy;  // [class][warp]
  unsigned* flagged;      // [class], and a word of padding each
  unsigned* words;        // [class][2][bin], or null

  SL_DEVICE CountShared(const CountLaunch& launch, int classes, unsigned char* memory) {
    invalid = reinterpret_cast<InvalidLabels*>(memory);
    cross_entropy = reinterpret_cast<double*>(invalid + 1);
    flagged = reinterpret_cast<unsigned*>(cross_entropy + classes * kWarps);
    words = launch.shared ? flagged + 2 * classes : nullptr;
  }

  SL_DEVICE void clear(const CountLaunch& launch, int classes) const {
    const int thread = int(threadIdx.x);
    if (thread == 0) *invalid = {0, ~0ull};
    for (int i = thread; i < classes * kWarps; i += kThreads) cross_entropy[i] = 0;
    for (int i = thread; i < classes; i += kThreads) flagged[i] = 0;
    const int counters = words == nullptr ? 0 : classes * 2 * launch.bins.count;
    for (int i = thread; i < counters; i += kThreads) words[i] = 0;
  }
};

// The errors of a thread's voxels in one class.
template <class T>
struct ClassErrors {
  Error<T> error[kVoxels];
  Place place[kVoxels];
  bool foreground[kVoxels];
};

// Counts them.
struct ToCounters {
  template <class T>
  SL_DEVICE static Place place(const CountLaunch& launch, const Error<T>& error) {
    return place_of(launch.bins, error);
  }

  template <class T>
  SL_DEVICE static void take(const CountLaunch& launch, const CountBlock& block,
                             const CountShared& s, const Tile&, int c,
                             const int32_t (&label)[kVoxels], const ClassErrors<T>& of) {
    const int bins = launch.bins.count;
    const int64_t all = block.image * launch.problem.channels + c;
    const Counters counters{s.words == nullptr ? nullptr : s.words + (c - block.first) * 2 * bins,
                            launch.packed + all * 2 * bins};
    int counter[kVoxels];
    unsigned word[kVoxels];
#pragma unroll
    for (int i = 0; i < kVoxels; ++i) {
      const bool counts = label[i] != kIgnored && !of.place[i].flagged;
      counter[i] = counts ? of.place[i].bin + (of.foreground[i] ? bins : 0) : kNowhere;
      word[i] = kOne + (of.place[i].offset >> 8);
    }
    count_voxels(counters, bins, counter, word);
  }
};

// An ascending key for errors in descending order; that of an ignored voxel is the last.
SL_DEVICE unsigned long long sort_key(float m, bool ignored, int64_t segment) {
  const unsigned low = ignored ? ~0u : ~(__float_as_uint(m) + 1);
  return static_cast<unsigned long long>(segment) << 32 | low;
}
SL_DEVICE unsigned long long sort_key(double m, bool ignored, int64_t) {
  return ignored ? ~0ull : ~(static_cast<unsigned long long>(__double_as_longlong(m)) + 1);
}

// Writes their keys, and as values the voxel's number in the image with the foreground in bit 0.
struct ToKeys {
  template <class T>
  SL_DEVICE static Place place(const CountLaunch&, const Error<T>& error) {
    return {0, 0, !(error.m == error.m)};
  }

  template <class T>
  SL_DEVICE static void take(const CountLaunch& launch, const CountBlock& block, const CountShared&,
                             const Tile& tile, int c, const int32_t (&label)[kVoxels],
                             const ClassErrors<T>& of) {
    const Problem& problem = launch.problem;
    const int64_t segment = block.image * problem.channels + c;
    const int64_t first = segment * problem.items * problem.voxels;
    const int64_t item = tile.item - block.image * problem.items;
#pragma unroll
    for (int i = 0; i < kVoxels; ++i) {
      if (!tile.has(i)) continue;
      const int64_t voxel = item * problem.voxels + tile.begin + tile.voxel(i);
      launch.keys[first + voxel] = sort_key(of.error[i].m, label[i] == kIgnored, segment);
      launch.values[first + voxel] = uint32_t(voxel) << 1 | (of.foreground[i] ? 1 : 0);
    }
  }
};

// Adds the warp's part of a class's cross-entropy, in a fixed order.
template <class T>
SL_DEVICE void add_cross_entropy(double* of_class, T sum) {
  if (!__any_sync(kAllLanes, sum != 0)) return;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  if (threadIdx.x % 32 == 0) of_class[threadIdx.x / 32] += double(sum);
}

template <class Sink, class T>
SL_DEVICE void count_class(const CountLaunch& launch, const CountBlock& block, const CountShared& s,
                           const Tile& tile, int c, const int32_t (&label)[kVoxels],
                           const T (&x)[kVoxels], const Softmax<T> (&softmax)[kVoxels],
                           const T (&log_sum)[kVoxels]) {
  const Problem& problem = launch.problem;
  ClassErrors<T> of;
  T entropy = 0;
  bool flags = false;
  find_foreground(problem, tile, c, label, of.foreground);
#pragma unroll
  for (int i = 0; i < kVoxels; ++i) {
    of.error[i] = error_of(problem.activation, x[i], of.foreground[i], softmax[i]);
    of.place[i] = Sink::place(launch, of.error[i]);
    const bool counts = label[i] != kIgnored;
    flags = flags || (counts && of.place[i].flagged);
    if (counts && problem.cross_entropy) {
      entropy +=
          cross_entropy(problem.activation, x[i], of.foreground[i], softmax[i].max, log_sum[i]);
    }
  }
  if (flags) {
#pragma unroll
    for (int i = 0; i < kVoxels; ++i) {
      if (label[i] != kIgnored && of.place[i].flagged) atomicAdd(&s.flagged[c - block.first], 1u);
    }
  }
  if (problem.cross_entropy)
    add_cross_entropy(s.cross_entropy + (c - block.first) * kWarps, entropy);
  Sink::take(launch, block, s, tile, c, label, of);
}

// The block's counters and sums go to global memory. Each block starts elsewhere, so that those
// that end together do not add to the same places.
template <class T>
SL_DEVICE void finish_block(const CountLaunch& launch, const CountBlock& block,
                            const CountShared& s) {
  const Problem& problem = launch.problem;
  const int thread = int(threadIdx.x), classes = block.last - block.first;
  if (s.words != nullptr) {
    const int counters = classes * 2 * launch.bins.count;
    const int64_t first = (block.image * problem.channels + block.first) * 2 * launch.bins.count;
    const int start = int(block.chunk % 61 * counters / 61) / 32 * 32;
    for (int i = thread; i < counters; i += kThreads) {
      const int at = i + start < counters ? i + start : i + start - counters;
      if (s.words[at] != 0) atomicAdd(launch.packed + first + at, widen_word(s.words[at]));
    }
  }
  for (int i = thread; i < classes; i += kThreads) {
    double sum = 0;
    for (int warp = 0; warp < kWarps; ++warp) sum += s.cross_entropy[i * kWarps + warp];
    const int64_t at = block.chunk * problem.channels + block.first + i;
    launch.partial.cross_entropy[at] = sum;
    launch.partial.flagged[at] = double(s.flagged[i]);
  }
  if (thread != 0 || block.group != 0) return;
  double2 found = make_double2(double(s.invalid->count), 0);
  if (s.invalid->count != 0) {
    const int64_t position = int64_t(s.invalid->first);
    const Tile tile(problem, block.image, block.begin + position / kTile);
    visit_label(problem.target,
                item_offset(problem.target, tile.item, tile.begin + position % kTile),
                [&](auto value) { found.y = double(value); });
  }
  launch.partial.invalid[block.chunk] = found;
}

// kClasses, if not 0: the softmax's classes at most, whose logits a thread keeps in registers.
// Otherwise the logits of one class after another are read, and the statistics of a softmax.
template <class Sink, class Storage, int kClasses>
__global__ void __launch_bounds__(kThreads, kClasses > 4 || sizeof(Storage) == 8 ? 1 : 2)
    count_kernel(const __grid_constant__ CountLaunch launch) {
  using T = Computed<Storage>;
  const Problem& problem = launch.problem;
  const CountBlock block(launch);
  const CountShared s(launch, block.last - block.first, dynamic_shared());
  s.clear(launch, block.last - block.first);
  for (int64_t index = block.begin; index < block.end; ++index) {
    Tile tile(problem, block.image, index);
    tile.align<Storage>(problem.input);
    const Row<Storage> row(problem.input, tile);
    T x[kClasses > 0 ? kClasses : 1][kVoxels];
#pragma unroll
    for (int c = 0; c < kClasses; ++c) {
      if (c < problem.channels) row.load(c, x[c]);
    }
    __syncthreads();  // see counters.cuh; what was asked for is on its way
    int32_t label[kVoxels];
    read_labels(problem, tile, (index - block.begin) * kTile,
                block.group == 0 ? s.invalid : nullptr, label);
    Softmax<T> softmax[kVoxels]{};
    T log_sum[kVoxels]{};
#pragma unroll
    for (int i = 0; i < kVoxels; ++i) {
      Statistics<T> found{};
      if constexpr (kClasses > 0) {
        found = statistics_of<kClasses, T>(problem.channels, [&](int c) { return x[c][i]; });
      } else if (launch.statistics != nullptr) {
        const int64_t of_slab =
            block.image * (launch.slab_end - launch.slab_begin) + index - launch.slab_begin;
        found = static_cast<const Statistics<T>*>(
            launch.statistics)[of_slab * kTile + (tile.has(i) ? tile.voxel(i) : 0)];
      }
      softmax[i] = Softmax<T>(found);
      log_sum[i] = problem.cross_entropy ? found.log_sum() : T(0);
    }
    if constexpr (kClasses > 0) {
#pragma unroll
      for (int c = 0; c < kClasses; ++c) {
        if (c < block.first || c >= block.last) continue;
        count_class<Sink>(launch, block, s, tile, c, label, x[c], softmax, log_sum);
      }
    } else {
#pragma unroll 1
      for (int c = block.first; c < block.last; ++c) {
        row.load(c, x[0]);
        count_class<Sink>(launch, block, s, tile, c, label, x[0], softmax, log_sum);
      }
    }
  }
  __syncthreads();
  finish_block<T>(launch, block, s);
}

}  // namespace segloss::lovasz::cuda
