// What the region_sums kernels compute on, free of torch: one instance of the kernels is compiled
// per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "instruction_sets.h"
#include "voxels/problem.h"

namespace segloss::region_sums {

// The order is that of TERMS in segloss_fast/ops/region_sums/options.py.
enum Term : int32_t {
  kTp,
  kTpSoft,
  kFp,
  kFn,
  kPred,
  kTarget,
  kPredSq,
  kTargetSq,
  kSqErr,
  kSqErrPos,
  kSqErrNeg,
  kAbsErr,
  kNll,
  kNllNeg,
  kNllAll,
  kNllPow,
  kFocal,
  kFocalNeg,
  kWeight,
  kTermCount
};

struct Problem : Comparison {
  Activation activation;
  Activation ce_activation;
  int row[kTermCount];  // where a term's sums go, -1 if nobody asked for it
  int rows;
  double gamma;

  bool wants(Term term) const { return row[term] >= 0; }
};

// The gradient of a problem's sums, [rows, B, C], within that of several problems' sums.
struct GradSums {
  const double* data;
  int64_t row_items;  // items in a row: of all the problems
};

struct Kernels {
  // Bytes of scratch memory, 64-byte aligned, that one call of backward needs, or with a null
  // gradient one of forward.
  size_t (*scratch_bytes)(const Problem& problem, const View* grad);
  // Writes the chunk's sums, [rows, C].
  void (*forward)(const Problem& problem, const Chunk& chunk, void* scratch, double* sums,
                  Invalid* invalid);
  // Writes the chunk of the gradient, given that of the sums.
  void (*backward)(const Problem& problem, const Chunk& chunk, void* scratch,
                   const GradSums& grad_sums, const View& grad);
};

SEGLOSS_DECLARE_KERNELS(Kernels)

}  // namespace segloss::region_sums
