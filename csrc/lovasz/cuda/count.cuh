// Reads logits and labels once and gives each voxel of each class to a sink: the counters of bins,
// or the keys of the sort. A block works on a chunk of an image's tiles, and a group of its
// classes.
#pragma once

#include "lovasz/cuda/counters.cuh"
#include "lovasz/cuda/tile.cuh"

namespace segloss::lovasz::cuda {

// What a kernel needs to know of a voxel before it takes up a class: nothing; the statistics of its
// softmax, which lie in memory; or its logits, of so many classes at most, in registers: of labels.
enum Needs { kNothing = -1, kStatistics = 0 };

// Which part of the work is a block's. Those that read the same labels for different groups of
// classes are neighbours: all but one find them in the second-level cache.
struct CountBlock {
  int image;
  int begin, end;          // tiles of the image
  int group, first, last;  // classes
  int64_t chunk;           // among all of the call

  SL_DEVICE explicit CountBlock(const CountLaunch& launch) {
    const int64_t block = blockIdx.x, of_slab = block / launch.groups;
    const int64_t classes = launch.problem.channels;
    group = int(block % launch.groups);
    first = int(group * classes / launch.groups);
    last = int((group + 1) * classes / launch.groups);
    image = int(of_slab / launch.chunks);
    begin = int(launch.slab_begin + of_slab % launch.chunks * launch.chunk_tiles);
    const int64_t next = begin + launch.chunk_tiles;
    end = int(next < launch.slab_end ? next : launch.slab_end);
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
  unsigned foreground;  // a bit each

  SL_DEVICE bool is_foreground(int i) const { return (foreground >> i & 1) != 0; }
};

// Counts them.
struct ToCounters {
  static constexpr int kBlocks = 2;  // on a multiprocessor, where counters and registers allow it

  template <int kNeeds, class T>
  SL_DEVICE static Place place(const CountLaunch& launch, const Error<T>& error) {
    if constexpr (kNeeds != kNothing) {
      return place_of_probability(launch.bins, error);
    } else {
      return place_of(launch.bins, error);
    }
  }

  template <class T>
  SL_DEVICE static void take(const CountLaunch& launch, const CountBlock& block,
                             const CountShared& s, const Tile&, int c,
                             const int32_t (&label)[kVoxels], const ClassErrors<T>& of) {
    const int bins = launch.bins.count;
    const int64_t all = int64_t(block.image) * launch.problem.channels + c;
    const Counters counters{s.words == nullptr ? nullptr : s.words + (c - block.first) * 2 * bins,
                            launch.packed + all * 2 * bins};
    int counter[kVoxels];
    unsigned word[kVoxels];
#pragma unroll
    for (int i = 0; i < kVoxels; ++i) {
      const int at = of.place[i].bin + (of.is_foreground(i) ? bins : 0);
      counter[i] = label[i] == kIgnored ? kNowhere : at;
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
  static constexpr int kBlocks = 1;

  template <int kNeeds, class T>
  SL_DEVICE static Place place(const CountLaunch&, const Error<T>& error) {
    return {0, 0, !(error.m == error.m)};
  }

  template <class T>
  SL_DEVICE static void take(const CountLaunch& launch, const CountBlock& block, const CountShared&,
                             const Tile& tile, int c, const int32_t (&label)[kVoxels],
                             const ClassErrors<T>& of) {
    const Problem& problem = launch.problem;
    const int64_t segment = int64_t(block.image) * problem.channels + c;
    const int64_t first = segment * problem.items * problem.voxels;
    const int64_t item = tile.item - int64_t(block.image) * problem.items;
#pragma unroll
    for (int i = 0; i < kVoxels; ++i) {
      if (!tile.has(i)) continue;
      const int64_t voxel = item * problem.voxels + tile.begin + tile.voxel(i);
      launch.keys[first + voxel] = sort_key(of.error[i].m, label[i] == kIgnored, segment);
      launch.values[first + voxel] = uint32_t(voxel) << 1 | (of.is_foreground(i) ? 1 : 0);
    }
  }
};

// Adds the warp's part of a class's cross-entropy.
template <class T>
SL_DEVICE void add_cross_entropy(double* of_class, T sum) {
  if (!__any_sync(kAllLanes, sum != 0)) return;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  if (threadIdx.x % 32 == 0) of_class[threadIdx.x / 32] += double(sum);
}

template <class Sink, int kNeeds, class T>
SL_DEVICE void count_class(const CountLaunch& launch, const CountBlock& block, const CountShared& s,
                           const Tile& tile, int c, const int32_t (&label)[kVoxels],
                           const T (&x)[kVoxels], const Softmax<T> (&softmax)[kVoxels]) {
  const Problem& problem = launch.problem;
  // Of float64 the compiler must not know it: it would keep more than there are registers for.
  constexpr bool kKnown = kNeeds != kNothing && sizeof(T) < sizeof(double);
  const Activation activation = kKnown ? Activation::kSoftmax : problem.activation;
  ClassErrors<T> of;
  unsigned flagged = 0;
  of.foreground =
      kNeeds > 0 ? labelled_foreground(c, label) : find_foreground(problem, tile, c, label);
#pragma unroll
  for (int i = 0; i < kVoxels; ++i) {
    of.error[i] = error_of(activation, x[i], of.is_foreground(i), softmax[i]);
    of.place[i] = Sink::template place<kNeeds>(launch, of.error[i]);
    flagged += label[i] != kIgnored && of.place[i].flagged ? 1 : 0;
  }
  if (flagged != 0) atomicAdd(&s.flagged[c - block.first], flagged);
  Sink::take(launch, block, s, tile, c, label, of);
  if (!problem.cross_entropy) return;
  T entropy = 0;
#pragma unroll
  for (int i = 0; i < kVoxels; ++i) {
    if (label[i] == kIgnored) continue;
    entropy += cross_entropy(activation, x[i], of.is_foreground(i), softmax[i]);
  }
  add_cross_entropy(s.cross_entropy + (c - block.first) * kWarps, entropy);
}

// The classes of a block, one after the other.
template <class Sink, class Storage, int kNeeds, class T>
SL_DEVICE void count_classes(const CountLaunch& launch, const CountBlock& block,
                             const CountShared& s, const Tile& tile,
                             const int32_t (&label)[kVoxels],
                             const Softmax<T> (&softmax)[kVoxels]) {
  const View& input = launch.problem.input;
  // The next class's logits are on their way while those of one are counted, where registers allow.
  constexpr bool kAhead = kNeeds == kStatistics && sizeof(T) < sizeof(double);
  T next[kVoxels]{};
  if (kAhead) Row<Storage>(input, tile).load(block.first, next);
#pragma unroll 1
  for (int c = block.first; c < block.last; ++c) {
    T x[kVoxels];
#pragma unroll
    for (int i = 0; i < kVoxels; ++i) x[i] = next[i];
    if (!kAhead) Row<Storage>(input, tile).load(c, x);
    if (kAhead && c + 1 < block.last) Row<Storage>(input, tile).load(c + 1, next);
    count_class<Sink, kNeeds>(launch, block, s, tile, c, label, x, softmax);
  }
}

// The block's counters and sums go to global memory. Each block starts elsewhere, so that those
// which end together do not meet.
template <class T>
SL_DEVICE void finish_block(const CountLaunch& launch, const CountBlock& block,
                            const CountShared& s) {
  const Problem& problem = launch.problem;
  const int thread = int(threadIdx.x), classes = block.last - block.first;
  if (s.words != nullptr) {
    const int counters = classes * 2 * launch.bins.count;
    const int64_t first =
        (int64_t(block.image) * problem.channels + block.first) * 2 * launch.bins.count;
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

SL_DEVICE int64_t statistics_index(const CountLaunch& launch, const CountBlock& block,
                                   int64_t index) {
  const int64_t tiles = launch.slab_end - launch.slab_begin;
  return (int64_t(block.image) * tiles + index - launch.slab_begin) * kTile;
}

template <class Sink, class Storage, int kNeeds>
__global__ void __launch_bounds__(kThreads,
                                  kNeeds == kNothing && sizeof(Storage) < 8 ? Sink::kBlocks : 1)
    count_kernel(const __grid_constant__ CountLaunch launch) {
  using T = Computed<Storage>;
  const Problem& problem = launch.problem;
  const CountBlock block(launch);
  const CountShared s(launch, block.last - block.first, dynamic_shared());
  s.clear(launch, block.last - block.first);
  for (int index = block.begin; index < block.end; ++index) {
    Tile tile(problem, block.image, index);
    tile.align<Storage>(problem.input);
    T x[kNeeds > 0 ? kNeeds : 1][kVoxels];
    if constexpr (kNeeds > 0) {
      const Row<Storage> row(problem.input, tile);
#pragma unroll
      for (int c = 0; c < kNeeds; ++c) {
        if (c < problem.channels) row.load(c, x[c]);
      }
    }
    __syncthreads();  // see counters.cuh; what was asked for is on its way
    int32_t label[kVoxels];
    read_labels(problem, tile, int64_t(index - block.begin) * kTile,
                block.group == 0 ? s.invalid : nullptr, label);
    Softmax<T> softmax[kVoxels]{};
#pragma unroll
    for (int i = 0; i < kVoxels; ++i) {
      if constexpr (kNeeds > 0) {
        softmax[i] =
            Softmax<T>(statistics_of<kNeeds, T>(problem.channels, [&](int c) { return x[c][i]; }));
      } else if constexpr (kNeeds == kStatistics) {
        const int64_t first = statistics_index(launch, block, index);
        softmax[i] = Softmax<T>(static_cast<const Statistics<T>*>(
            launch.statistics)[first + (tile.has(i) ? tile.voxel(i) : 0)]);
      }
    }
    if constexpr (kNeeds > 0) {
#pragma unroll
      for (int c = 0; c < kNeeds; ++c) {
        if (c < block.first || c >= block.last) continue;
        count_class<Sink, kNeeds>(launch, block, s, tile, c, label, x[c], softmax);
      }
    } else {
      count_classes<Sink, Storage, kNeeds>(launch, block, s, tile, label, softmax);
    }
  }
  __syncthreads();
  finish_block<T>(launch, block, s);
}

}  // namespace segloss::lovasz::cuda
