// A block's tile of voxels: which of them a thread takes, their labels, and the way to their
// values. Where rows of voxels are aligned a thread's voxels are neighbours, moved together;
// elsewhere neighbouring voxels belong to neighbouring threads.
#pragma once

#include "cuda.cuh"
#include "lovasz/cuda/errors.cuh"
#include "lovasz/cuda/launch.h"
#include "voxels/cuda/labels.cuh"
#include "voxels/cuda/quads.cuh"

namespace segloss::lovasz::cuda {

template <class Storage>
using Computed = std::conditional_t<std::is_same_v<Storage, double>, double, float>;

struct Tile {
  static constexpr bool kRolled = false;
  int64_t item;
  int64_t begin;  // its first voxel
  int count;
  bool wide;  // whether the thread's voxels are neighbours

  // Tile `index` of an image.
  SL_DEVICE Tile(const Problem& problem, int64_t image, int64_t index) {
    item = image * problem.items + index / problem.item_tiles;
    begin = index % problem.item_tiles * kTile;
    const int64_t left = problem.voxels - begin;
    count = left < kTile ? int(left) : kTile;
    wide = false;
  }

  template <class Storage>
  SL_DEVICE void align(const View& input) {
    const Storage* const row =
        static_cast<const Storage*>(input.data) + item * input.batch_stride + begin;
    wide = count % kVoxels == 0 && is_row<Storage>(input, row);
  }

  // Of the thread's voxel i; it is not there where this reaches `count`.
  SL_DEVICE int voxel(int i) const { return voxel(i, int(threadIdx.x)); }
  SL_DEVICE int voxel(int i, int thread) const {
    return wide ? thread * kVoxels + i : thread + i * kThreads;
  }
  SL_DEVICE bool has(int i) const { return voxel(i) < count; }
};

// The classes of the thread's voxels; a dense target has none. Voxels that are not there are
// ignored. Invalid labels are noted where `invalid` is not null; `position` is the tile's in the
// block's chunk.
SL_DEVICE void read_labels(const Problem& problem, const Tile& tile, int64_t position,
                           InvalidLabels* invalid, int32_t (&label)[kVoxels]) {
#pragma unroll
  for (int i = 0; i < kVoxels; ++i) label[i] = tile.has(i) ? kNoClass : kIgnored;
  if (problem.dense_target) return;
  visit_dtype(problem.target.dtype, [&](auto type) {
    using Storage = typename decltype(type)::type;
    const Storage* const from = static_cast<const Storage*>(problem.target.data);
#pragma unroll
    for (int i = 0; i < kVoxels; ++i) {
      if (!tile.has(i)) continue;
      const int64_t at = item_offset(problem.target, tile.item, tile.begin + tile.voxel(i));
      label[i] = code_of(problem, widen<typename LabelType<Storage>::type>(from[at]));
    }
  });
  if (invalid == nullptr) return;
#pragma unroll
  for (int i = 0; i < kVoxels; ++i) {
    if (label[i] != kInvalid) continue;
    atomicAdd(&invalid->count, 1ull);
    atomicMin(&invalid->first, static_cast<unsigned long long>(position + tile.voxel(i)));
  }
}

// Whether the voxel at `offset` of a dense target's item and class is foreground.
SL_DEVICE bool is_foreground(const View& target, int64_t item, int64_t c, int64_t voxel) {
  const int64_t at = item_offset(target, item, voxel) + c * target.channel_stride;
  bool result = false;
  visit_label(target, at, [&](auto value) { result = double(value) > 0.5; });
  return result;
}

// Which of the thread's voxels are foreground of a class, a bit each, by their labels.
SL_DEVICE unsigned labelled_foreground(int c, const int32_t (&label)[kVoxels]) {
  unsigned foreground = 0;
#pragma unroll
  for (int i = 0; i < kVoxels; ++i) foreground |= label[i] == c ? 1u << i : 0;
  return foreground;
}

// The same by what there is.
SL_DEVICE unsigned find_foreground(const Problem& problem, const Tile& tile, int c,
                                   const int32_t (&label)[kVoxels]) {
  unsigned foreground = labelled_foreground(c, label);
  if (!problem.dense_target) return foreground;
#pragma unroll 1
  for (int i = 0; i < kVoxels; ++i) {
    if (!tile.has(i)) continue;
    const int64_t voxel = tile.begin + tile.voxel(i);
    foreground |= is_foreground(problem.target, tile.item, c, voxel) ? 1u << i : 0;
  }
  return foreground;
}

// For softmaxes of many classes: a thread has one voxel, whose logits it keeps in a column of the
// block's shared memory, its own, while it reads them several times.
//
// The voxels of an item, `columns` to a block.
struct ColumnVoxel {
  int64_t item, voxel;
  bool there;

  SL_DEVICE explicit ColumnVoxel(const Problem& problem) {
    const int64_t columns = blockDim.x, blocks = (problem.voxels + columns - 1) / columns;
    item = blockIdx.x / blocks;
    voxel = blockIdx.x % blocks * columns + threadIdx.x;
    there = voxel < problem.voxels;
  }
};

template <class T>
struct Column {
  T* first;

  SL_DEVICE Column() : first(reinterpret_cast<T*>(dynamic_shared()) + threadIdx.x) {}
  SL_DEVICE T& operator()(int c) const { return first[c * int(blockDim.x)]; }

  template <class Storage>
  SL_DEVICE void load(const View& view, int64_t item, int64_t voxel, int classes) const {
    const Storage* const from =
        static_cast<const Storage*>(view.data) + item_offset(view, item, voxel);
#pragma unroll 8
    for (int c = 0; c < classes; ++c) (*this)(c) = widen<T>(from[c * view.channel_stride]);
  }

  SL_DEVICE Statistics<T> statistics(int classes) const {
    return statistics_of<0, T>(classes, [&](int c) { return (*this)(c); });
  }
};

}  // namespace segloss::lovasz::cuda
