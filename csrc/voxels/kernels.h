// Rows of voxels from tensors of any dtype and strides, for the kernels of all primitives: compiled
// once per instruction set, since every dtype and way to read it is a loop. Free of torch.
#pragma once

#include <cstdint>

#include "instruction_sets.h"
#include "voxels/view.h"

namespace segloss {

// What a label's code is where no class is hit.
constexpr int32_t kNoClass = -1;  // the background of the only class
constexpr int32_t kIgnored = -2;
constexpr int32_t kInvalid = -3;  // no class, or a value outside of [0, 1]

struct LabelRule {
  int64_t channels;
  bool has_ignore;
  int64_t ignore_index;
  bool values = false;  // of one class; those above one half are its foreground
};

struct LabelCount {
  int64_t ignored = 0;
  int64_t invalid = 0;
};

namespace voxels {

// Voxels [begin, begin + n) of a plane, to or from a row.
struct Kernels {
  void (*load_floats)(const View& view, int64_t item, int64_t channel, int64_t begin, int64_t n,
                      float* to);
  void (*load_doubles)(const View& view, int64_t item, int64_t channel, int64_t begin, int64_t n,
                       double* to);
  void (*store_floats)(const float* from, const View& view, int64_t item, int64_t channel,
                       int64_t begin, int64_t n);
  void (*store_doubles)(const double* from, const View& view, int64_t item, int64_t channel,
                        int64_t begin, int64_t n);
  // What these say is in labels.inc.
  LabelCount (*read_labels)(const View& view, int64_t item, int64_t begin, int64_t n,
                            const LabelRule& rule, int32_t* label);
  bool (*read_classes)(const View& view, int64_t item, int64_t begin, int64_t n,
                       const LabelRule& rule, int32_t* label);
  LabelCount (*judge_values)(const View& view, int64_t item, int64_t begin, int64_t n,
                             const LabelRule& rule, int32_t* label);
};

SEGLOSS_DECLARE_KERNELS(Kernels)

}  // namespace voxels
}  // namespace segloss
