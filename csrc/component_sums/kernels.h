// What the component_sums kernels compute on, free of torch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "instruction_sets.h"
#include "voxels/problem.h"

namespace segloss::component_sums {

// The order is that of TERMS in segloss_fast/ops/component_sums/record.py.
enum Term : int { kTp, kPred, kTarget, kWeight, kNll, kNllNeg, kPredSq, kFp, kFn, kTermCount };

struct Problem : Comparison {
  Activation activation;
  View bins;
  bool shared_bins;     // the same for all classes
  int64_t count;        // of the bins beside bin 0
  int rows;             // how many terms are wanted
  int row[kTermCount];  // where each stands among them, -1 where it is not wanted

  // constexpr is what CUDA's kernels can call, too.
  constexpr bool wants(Term term) const { return row[term] >= 0; }
  constexpr int64_t places() const { return count + 1; }
  int64_t groups() const { return shared_bins ? 1 : channels; }
  // Of a bin of a group: [C, rows] where classes share their bins, else [rows].
  int64_t sums() const { return (shared_bins ? channels : 1) * rows; }
};

// The sums of the bins that a chunk meets, which are few of many.
struct Table {
  void* context;
  // Finds or makes the places of bins, and returns the sums of the first place, until the next
  // call: those of slot s begin s * Problem::sums() further on.
  double* (*place)(void* context, int64_t group, const int32_t* bins, int64_t n, int64_t* slots);
};

struct Kernels {
  // Bytes of scratch memory, 64-byte aligned, that one call of backward needs, or with a null
  // gradient one of forward.
  size_t (*scratch_bytes)(const Problem& problem, const View* grad);
  // Adds the chunk's sums to an empty table; lost, [C] of 0, becomes 1 where a bin is out of range.
  void (*forward)(const Problem& problem, const Chunk& chunk, void* scratch, const Table& table,
                  uint8_t* lost, Invalid* invalid);
  // Writes the chunk of the gradient, given that of the rows, [rows, B, C, count + 1].
  void (*backward)(const Problem& problem, const Chunk& chunk, void* scratch,
                   const double* grad_rows, const View& grad);
};

SEGLOSS_DECLARE_KERNELS(Kernels)

}  // namespace segloss::component_sums
