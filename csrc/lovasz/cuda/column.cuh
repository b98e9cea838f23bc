// For softmaxes of many classes: a thread has one voxel, whose logits it keeps in a column of the
// block's shared memory, its own, while it reads them several times.
#pragma once

#include "cuda.cuh"
#include "lovasz/cuda/errors.cuh"
#include "lovasz/cuda/launch.h"
#include "lovasz/cuda/tile.cuh"

namespace segloss::lovasz::cuda {

// Of an item's voxels, `columns` to a block.
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
