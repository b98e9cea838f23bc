// The four voxels of a thread in tensors of any layout: where these allow it they are neighbours,
// and are moved together.
//
// A tile says which voxels they are: the item, where in it the tile begins, how many voxels it has,
// whether those of a thread are neighbours (`wide`), and where in the tile voxel i of a thread is.
// The code of divisions is long: `kRolled` says that there is to be one for all of a thread's
// voxels.
#pragma once

#include "voxels/cuda/memory.cuh"

namespace segloss {

constexpr int kQuad = 4;

// A thread's voxels of a row.
template <class Storage>
using Quad = Pack<Storage, std::conditional_t<sizeof(Storage) == 2, uint2, uint4>>;
template <class Storage>
constexpr bool kHasQuad = Quad<Storage>::kSize == kQuad;  // not of doubles

template <class Storage>
SL_DEVICE bool is_row(const View& view, const void* voxel) {
  return kHasQuad<Storage> && view.dims == 1 && view.stride[0] == 1 &&
         reinterpret_cast<uintptr_t>(voxel) % sizeof(Quad<Storage>) == 0 &&
         view.channel_stride * int64_t(sizeof(Storage)) % int64_t(sizeof(Quad<Storage>)) == 0;
}

// Where in an item the thread's voxels are; those behind the tile's end where the first one is.
template <class Tile>
SL_DEVICE void find_offsets(const View& view, const Tile& tile, int64_t (&offset)[kQuad]) {
  const int thread = thread_again();  // each time anew: the offsets would take registers
  const auto place = [&](int i) {
    const int voxel = tile.voxel(i, thread);
    return tile.begin + (voxel < tile.count ? voxel : 0);
  };
  const auto unrolled = [&] {
#pragma unroll
    for (int i = 0; i < kQuad; ++i) offset[i] = voxel_offset(view, place(i));
  };
  if constexpr (!Tile::kRolled) {
    unrolled();
  } else if (view.dims == 1) {
    unrolled();
  } else {
#pragma unroll 1
    for (int i = 0; i < kQuad; ++i) {
      const int64_t found = voxel_offset(view, place(i));
#pragma unroll
      for (int k = 0; k < kQuad; ++k) offset[k] = k == i ? found : offset[k];
    }
  }
}

// The thread's voxels in a tensor.
template <class Storage>
struct Row {
  Storage* item;
  int64_t channel_stride;
  int64_t offset[kQuad]{};
  bool wide;

  template <class Tile>
  SL_DEVICE Row(const View& view, const Tile& tile) : channel_stride(view.channel_stride) {
    item = static_cast<Storage*>(view.data) + tile.item * view.batch_stride;
    wide = tile.wide && is_row<Storage>(view, item + tile.begin);
    find_offsets(view, tile, offset);
  }

  // Anything at all for voxels that are not there.
  template <class T>
  SL_DEVICE void load(int64_t c, T (&x)[kQuad]) const {
    const Storage* const from = item + c * channel_stride;
    if constexpr (kHasQuad<Storage>) {
      if (wide) {
        const Quad<Storage> quad = Quad<Storage>::load(from + offset[0]);
#pragma unroll
        for (int i = 0; i < kQuad; ++i) x[i] = widen<T>(quad.value[i]);
        return;
      }
    }
#pragma unroll
    for (int i = 0; i < kQuad; ++i) x[i] = widen<T>(from[offset[i]]);
  }

  template <class Tile, class T>
  SL_DEVICE void store(int64_t c, const Tile& tile, const T (&x)[kQuad]) const {
    Storage* const to = item + c * channel_stride;
    if constexpr (kHasQuad<Storage>) {
      if (wide) {
        Quad<Storage> quad;
#pragma unroll
        for (int i = 0; i < kQuad; ++i) quad.value[i] = narrow<Storage>(x[i]);
        if (tile.has(0)) quad.store(to + offset[0]);
        return;
      }
    }
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      if (tile.has(i)) to[offset[i]] = narrow<Storage>(x[i]);
    }
  }
};

}  // namespace segloss
