// What the hardest_voxels kernels compute on, free of torch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "instruction_sets.h"
#include "voxels/problem.h"

namespace segloss::hardest_voxels {

struct Problem : Comparison {
  Activation activation;
  bool categorical;            // the classes compete: -t log p, else also -(1 - t) log(1 - p)
  int64_t first;               // classes below it have no share
  const double* class_weight;  // [channels], or null
};

// Cross-entropies are searched by their keys: unsigned integers of their width in the same order,
// with NaN the largest. A voxel that does not count has -infinity, the smallest.
constexpr int kDigitBits = 11;
constexpr int64_t kDigits = int64_t(1) << kDigitBits;
constexpr int64_t kOthers = 16;  // more counters, for keys that are not looked for
constexpr int64_t kCounters = kDigits + kOthers;

// A digit of the keys, bits [shift, shift + bits), of those keys whose higher bits are the prefix.
struct Digit {
  uint64_t prefix;
  int shift;
  int bits;
};

// Keys above it weigh 1, those equal to it share what is left.
struct Threshold {
  uint64_t key;
  double share;
};

struct Weighed {
  int64_t above;
  int64_t ties;
};

struct Kernels {
  // Bytes of scratch memory, 64-byte aligned, that cross_entropy needs.
  size_t (*scratch_bytes)(const Problem& problem);
  // Writes the cross-entropy of the voxels [begin, end) of an item to the map [B, voxels], counts
  // their leading digits, and returns how many voxels count.
  int64_t (*cross_entropy)(const Problem& problem, int64_t item, int64_t begin, int64_t end,
                           void* scratch, void* map, int64_t* counts);
  // Counts the digits of n values of the map, of doubles or floats.
  void (*count)(bool is_double, const void* map, int64_t n, const Digit& digit, int64_t* counts);
  // Replaces n values of the map by the voxels' weights.
  Weighed (*weigh)(bool is_double, void* map, int64_t n, const Threshold& threshold);
};

SEGLOSS_DECLARE_KERNELS(Kernels)

}  // namespace segloss::hardest_voxels
