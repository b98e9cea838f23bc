// Where words and their voxels lie.
#pragma once

#include "connected_components/cuda/launch.h"
#include "voxels/cuda/math.cuh"

namespace segloss::connected_components::cuda {

constexpr int kLanes = 32;
constexpr int kWarps = kThreads / kLanes;
constexpr unsigned kAll = 0xffffffffu;

SL_DEVICE unsigned up_to(int x) { return (2u << x) - 1; }
SL_DEVICE int highest(unsigned bits) { return 31 - __clz(int(bits)); }
SL_DEVICE int lowest(unsigned bits) { return __ffs(int(bits)) - 1; }

// A word of a mask: 32 voxels of a row, or what is left of it.
struct Word {
  int64_t mask;
  int index;  // in the mask
  int row;
  int in_row;
  int first;  // voxel of the mask

  SL_DEVICE Word(const Launch& launch, int64_t of_mask, int in_mask)
      : mask(of_mask), index(in_mask) {
    row = index / launch.words;
    in_row = index - row * launch.words;
    first = row * int(launch.problem.size[2]) + in_row * kLanes;
  }

  SL_DEVICE unsigned bits(const Launch& launch) const {
    return launch.bits[mask * launch.mask_words + index];
  }
  // Where pieces begin: where runs do, and at the word's first voxel.
  SL_DEVICE unsigned pieces(const Launch& launch, unsigned own_bits) const {
    if (launch.starts == nullptr) return own_bits & ~(own_bits << 1);
    return launch.starts[mask * launch.mask_words + index] | (own_bits & 1);
  }
  SL_DEVICE int32_t* parents(const Launch& launch) const {
    const Problem& p = launch.problem;
    return p.labels + mask * (p.size[0] * p.size[1] * p.size[2]);
  }
  // Of the row's first voxel, in elements.
  SL_DEVICE int64_t offset(const Problem& problem) const {
    const int slice = row / int(problem.size[1]), y = row - slice * int(problem.size[1]);
    const int64_t item = mask / problem.channels, channel = mask - item * problem.channels;
    return item * problem.batch_stride + channel * problem.channel_stride +
           slice * problem.stride[0] + y * problem.stride[1];
  }
};

// The word of a thread, and whether there is one.
SL_DEVICE bool find_word(const Launch& launch, int64_t* mask, int* index) {
  *mask = blockIdx.x / unsigned(launch.mask_blocks);
  const int64_t found = int64_t(blockIdx.x % unsigned(launch.mask_blocks)) * kThreads + threadIdx.x;
  *index = int(found < launch.mask_words ? found : 0);
  return found < launch.mask_words;
}

// Calls f with a pointer to unsigned integers of the elements' size.
template <class F>
SL_DEVICE void visit_elements(const Problem& problem, F f) {
  switch (problem.element_size) {
    case 1:
      return f(static_cast<const uint8_t*>(problem.data));
    case 2:
      return f(static_cast<const uint16_t*>(problem.data));
    case 4:
      return f(static_cast<const uint32_t*>(problem.data));
    default:
      return f(static_cast<const unsigned long long*>(problem.data));
  }
}

}  // namespace segloss::connected_components::cuda
