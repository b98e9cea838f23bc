// What the lovasz kernels compute on, free of torch: one instance of the kernels is compiled per
// instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "instruction_sets.h"
#include "voxels/problem.h"

namespace segloss::lovasz {

// The order is that of ACTIVATIONS in segloss_fast/ops/lovasz/options.py.
enum class Activation : int32_t { kSoftmax, kSigmoid, kHinge };

// The bins that errors are counted in: segloss_fast/ops/lovasz/bins.py defines them.
struct Bins {
  int64_t octaves;
  int64_t bits;
  int64_t count;  // K
};

struct Problem : Comparison {
  Activation activation;
  Bins bins;  // of no meaning to the sort
  bool cross_entropy;
  bool values;  // a dense target of one class, read as labels: see LabelRule; not dense_target then
};

// What a chunk adds up besides its errors: [C] each.
struct ChunkSums {
  double* flagged;        // voxels whose error is NaN
  double* cross_entropy;  // 0 where nobody asked for it
};

// Counters of one thread, a row per class. A counter is 64 bits wide: the number of voxels in the
// high 24, the sum of their offsets, of 16 bits each, in the low 40. One addition serves both.
struct Counters {
  uint64_t* data;
  int64_t stride;  // between classes; a row ends in one counter for voxels that do not count

  static constexpr int kShift = 40;
  static constexpr int64_t kMaxVoxels = int64_t(1) << 23;  // before they must be emptied
};

// What the sort sorts: uint32_t (uint64_t for float64 input), rising as the error falls, with the
// foreground bit as the lowest; all ones where a voxel does not count.
struct Keys {
  void* data;
  uint64_t top;  // the bits of the largest error there may be, whose key is 0
};

// The derivative of the loss in each error: of an item's classes by bin, or of each voxel.
struct Incoming {
  const void* table;  // [I, C, 2, K], or null
  const void* voxel;  // [B, C, voxels], to be multiplied by scale, [I, C]
  const double* scale;
  const double* cross_entropy;  // [I, C], or null: the derivative in the cross-entropy sums
  int64_t images;               // I: the batch's size or 1
};

// Voxels in the order of falling errors.
template <class T>
struct SortedRow {
  static constexpr int64_t kMost = 512;
  static constexpr int64_t kMargin = 2;  // around the keys, for the kernel

  std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t> key[kMost + 2 * kMargin];
  T error[kMost];
  T g[kMost];
  int32_t foreground_before[kMost + 1];  // in the row
  // Two voxels of one error, both foreground or both background: 1 and 2. Other equal errors, whose
  // first one `begins`, are left to the caller, and are 0 here.
  int32_t pair[kMost];
  uint8_t begins[kMost];  // 0 up to a multiple of 8
};

struct Kernels {
  // Bytes of scratch memory, 64-byte aligned, that one call of backward needs, or with a null
  // gradient one of the others.
  size_t (*scratch_bytes)(const Problem& problem, const View* grad);
  // Adds the chunk to the counters.
  void (*count)(const Problem& problem, const Chunk& chunk, void* scratch, const Counters& counters,
                const ChunkSums& sums, Invalid* invalid);
  // Writes the chunk of the sort's keys (sort.h), [B, C, voxels].
  void (*keys)(const Problem& problem, const Chunk& chunk, void* scratch, const Keys& keys,
               const ChunkSums& sums, Invalid* invalid);
  // Writes the chunk of the gradient.
  void (*backward)(const Problem& problem, const Chunk& chunk, void* scratch,
                   const Incoming& incoming, const View& grad);
  // Fills in what a row has besides the first n keys, whose sum of error * g it returns. Of all
  // foreground voxels `left` are not before the row; u is their number and that of the background
  // before it. With zero_is_none an error of 0 has g = 0.
  double (*increments)(SortedRow<float>* row, int64_t n, double left, double u, uint32_t top,
                       bool zero_is_none);
  double (*increments_double)(SortedRow<double>* row, int64_t n, double left, double u,
                              uint64_t top, bool zero_is_none);
};

SEGLOSS_DECLARE_KERNELS(Kernels)

}  // namespace segloss::lovasz
