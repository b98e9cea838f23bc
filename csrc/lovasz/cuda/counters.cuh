// Counts of voxels by bin: for each bin of a class, first of background and then of foreground, how
// many voxels it has and the sum of their offsets in it, in 2^-8 of its width.
//
// A block's counters are words in its shared memory: the count in the upper 12 bits, the sum of
// offsets in the lower 20. Who brings a count to 2048 hands the word over to the 64-bit counters in
// global memory. Between two barriers of the block at most kTile = 2048 voxels are added to a word,
// so that it ends below 4096 however late that happens. All of these are sums of integers: their
// order does not matter.
#pragma once

#include "cuda.cuh"
#include "lovasz/cuda/errors.cuh"

namespace segloss::lovasz::cuda {

constexpr unsigned kOne = 1u << 20;  // one voxel of offset 0
constexpr unsigned kHandOver = 2048;
static_assert(kHandOver - 1 + kTile < 4096 && 4095 * 255 < kOne, "a word would overflow");

// Of the packed counters in global memory: 28 bits of count, 36 of offsets.
constexpr int kPackedShift = 36;
constexpr int64_t kPackedVoxels = (int64_t{1} << 28) - 1;  // that they can count

SL_DEVICE unsigned long long widen_word(unsigned word) {
  return static_cast<unsigned long long>(word / kOne) << kPackedShift | word % kOne;
}

// The counters of one class.
struct Counters {
  unsigned* words;  // null where all goes to global memory
  unsigned long long* packed;

  SL_DEVICE void add(int counter, unsigned word) const {
    if (words == nullptr) {
      atomicAdd(packed + counter, widen_word(word));
      return;
    }
    const unsigned before = atomicAdd(words + counter, word);
    constexpr unsigned kLimit = kHandOver * kOne;
    if (before < kLimit && before + word >= kLimit) {
      atomicAdd(packed + counter, widen_word(atomicExch(words + counter, 0u)));
    }
  }
};

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kNowhere = -1;

// Adds what the warp has for one counter.
SL_DEVICE void add_sum(const Counters& counters, int counter, unsigned word) {
  const unsigned sum = __reduce_add_sync(kAllLanes, word);
  if (threadIdx.x % 32 == 0 && sum != 0) counters.add(counter, sum);
}

// Counts voxels of a warp, `bins` counters for background and as many for foreground. Threads that
// add to one word wait for each other, so where many voxels are alike the warp adds them first: the
// bins of the smallest errors, to which a trained network brings most voxels, and the counter of
// regions without any difference, such as the air around a patient.
SL_DEVICE void count_voxels(const Counters& counters, int bins, int (&counter)[kVoxels],
                            const unsigned (&word)[kVoxels]) {
  unsigned background = 0, foreground = 0;
#pragma unroll
  for (int i = 0; i < kVoxels; ++i) {
    background += counter[i] == 0 ? word[i] : 0;
    foreground += counter[i] == bins ? word[i] : 0;
    if (counter[i] == 0 || counter[i] == bins) counter[i] = kNowhere;
  }
  if (__any_sync(kAllLanes, (background | foreground) != 0)) {
    add_sum(counters, 0, background);
    add_sum(counters, bins, foreground);
  }
  constexpr int kAlike = 8;  // threads, from which on it pays
  const int common = __shfl_sync(kAllLanes, counter[0], 0);
  bool alike = common != kNowhere;
  unsigned sum = 0;
#pragma unroll
  for (int i = 0; i < kVoxels; ++i) {
    alike = alike && counter[i] == common;
    sum += word[i];
  }
  if (__popc(__ballot_sync(kAllLanes, alike)) >= kAlike) {
    add_sum(counters, common, alike ? sum : 0);
    if (alike) return;
  }
#pragma unroll
  for (int i = 0; i < kVoxels; ++i) {
    if (counter[i] != kNowhere) counters.add(counter[i], word[i]);
  }
}

}  // namespace segloss::lovasz::cuda
