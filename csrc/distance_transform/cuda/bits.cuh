// Loads lines of a mask as bits: each thread gets 16 neighbouring voxels, a strip.
#pragma once

#include "distance_transform/cuda/problem.h"

namespace segloss::distance_transform::cuda {

constexpr int kStrip = 16;
constexpr unsigned kWarp = 0xffffffffu;

// Of the row-major index of a line, where its first voxel is.
__device__ inline int64_t line_offset(const RunPass& p, int64_t line) {
  int64_t offset = 0;
  for (int d = p.dims - 1; d > 0; --d) {
    const int64_t rest = line / p.size[d];
    offset += (line - rest * p.size[d]) * p.stride[d];
    line = rest;
  }
  return offset + line * p.stride[0];
}

// Which of the four bytes are not zero.
__device__ inline unsigned nonzero_bytes(unsigned bytes) {
  const unsigned high = ((bytes & 0x7f7f7f7fu) + 0x7f7f7f7fu) | bytes;
  return (high >> 7 & 0x01010101u) * 0x10204080u >> 28;  // gathers bits 0, 8, 16, 24; no carries
}

__device__ inline unsigned strip_of_bytes(const uint4* bytes) {
  const uint4 v = __ldg(bytes);
  return nonzero_bytes(v.x) | nonzero_bytes(v.y) << 4 | nonzero_bytes(v.z) << 8 |
         nonzero_bytes(v.w) << 12;
}

// Element by element, neighbouring threads reading neighbouring voxels. The warp's threads share 32
// >> log_lanes lines, and look at 32 voxels of one of them at a time.
template <class T>
__device__ unsigned strip_by_ballots(const RunPass& p, int64_t first_line, int64_t offset,
                                     int begin) {
  const int lane = int(threadIdx.x % kLanes), log_words = p.log_lanes - 1;
  const T* const mask = static_cast<const T*>(p.mask);
  T values[kStrip];
#pragma unroll
  for (int word = 0; word < kStrip; ++word) {
    const int line = word >> log_words;
    const int x = begin + (word & ((1 << log_words) - 1)) * kLanes + lane;
    const int64_t start = __shfl_sync(kWarp, offset, line << p.log_lanes);
    const bool exists = x < p.width && first_line + line < p.lines;
    values[word] = exists ? mask[start + x * p.step] : T(0);
  }
  unsigned strip = 0;
#pragma unroll
  for (int word = 0; word < kStrip; ++word) {
    const unsigned bits = __ballot_sync(kWarp, (values[word] & T(p.bits)) != 0);
    if (lane / 2 == word) strip = lane % 2 == 0 ? bits & 0xffffu : bits >> 16;
  }
  return strip;
}

// Where the nearest voxels of either kind are, before and after some voxels; beyond any line if
// there is none.
struct Ends {
  int inside, outside;
};
constexpr int kFarBefore = -2 * int(kMaxSize), kFarAfter = 2 * int(kMaxSize);

// The strips of one warp: those of a group of lanes lie side by side on a line.
struct Strips {
  unsigned inside;                       // bits, of voxels that exist
  unsigned outside;                      // likewise
  int begin;                             // of the thread's strip, on its line
  int count;                             // voxels of it that exist, at most 0 behind the end
  unsigned inside_lanes, outside_lanes;  // of the group, that have such a voxel

  __device__ Strips(unsigned bits, int strip_begin, int width, unsigned group)
      : begin(strip_begin), count(min(kStrip, width - strip_begin)) {
    const unsigned exist = count > 0 ? (1u << count) - 1 : 0;
    inside = bits & exist;
    outside = ~bits & exist;
    inside_lanes = __ballot_sync(kWarp, inside != 0) & group;
    outside_lanes = __ballot_sync(kWarp, outside != 0) & group;
  }

  // The last voxels of either kind in those of the lanes that `which` has.
  __device__ Ends last(unsigned which, Ends otherwise) const {
    return {last(inside, inside_lanes & which, otherwise.inside),
            last(outside, outside_lanes & which, otherwise.outside)};
  }
  __device__ Ends first(unsigned which, Ends otherwise) const {
    return {first(inside, inside_lanes & which, otherwise.inside),
            first(outside, outside_lanes & which, otherwise.outside)};
  }

 private:
  __device__ int last(unsigned bits, unsigned lanes, int otherwise) const {
    const int source = lanes != 0 ? 31 - __clz(int(lanes)) : 0;
    const int found = __shfl_sync(kWarp, begin + 31 - __clz(int(bits)), source);
    return lanes != 0 ? found : otherwise;
  }
  __device__ int first(unsigned bits, unsigned lanes, int otherwise) const {
    const int source = lanes != 0 ? __ffs(int(lanes)) - 1 : 0;
    const int found = __shfl_sync(kWarp, begin + __ffs(int(bits)) - 1, source);
    return lanes != 0 ? found : otherwise;
  }
};

}  // namespace segloss::distance_transform::cuda
