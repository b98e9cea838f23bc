// The exact loss of one image and class, by a radix sort of its errors.
//
// Keys (float32: 32 bits, float64: 64) rise as the error falls: twice the difference between the
// bits of the largest error there may be and those of the error, and the foreground bit. All ones
// is no key: the voxel does not count.
#pragma once

#include <cstdint>

#include "lovasz/kernels.h"

namespace segloss::lovasz {

// What all images and classes of one call share.
struct SortJob {
  bool is_double;
  bool wants_gradient;  // g takes the place of the keys
  bool zero_is_none;    // an error of 0 has g = 0 (hinge)
  uint64_t top;         // the bits of the largest error
};

// An image and class: as many pieces as items are pooled.
struct SortGroup {
  void* values;  // keys on entry
  int64_t pieces;
  int64_t piece_stride;
  int64_t piece_voxels;
  bool flagged;  // some error was NaN: all is NaN

  int64_t voxels() const { return pieces * piece_voxels; }
};

struct SortResult {
  double loss;
  double foreground;
};

uint64_t largest_error(Activation activation, bool is_double);

// Bytes of memory that sorting so many voxels needs, besides that of a bucket.
int64_t sort_bytes(const SortJob& job, int64_t voxels);

// In the caller's thread, or cut into parts for torch's threads: the same bits in any number.
SortResult sort_group(const SortJob& job, const SortGroup& group, int64_t parts, void* memory);

}  // namespace segloss::lovasz
