// Where elements lie, and moves of several at once.
#pragma once

#include <cstring>
#include <type_traits>

#include "voxels/cuda/math.cuh"

namespace segloss {

// Elements that are loaded and stored together, as one Raw.
template <class Storage, class Raw>
struct Pack {
  static constexpr int kSize = sizeof(Raw) / sizeof(Storage);
  Storage value[kSize];

  SL_DEVICE static Pack load(const Storage* from) {
    Pack result;
    const Raw raw = __ldcs(reinterpret_cast<const Raw*>(from));  // read once: do not keep
    memcpy(&result, &raw, sizeof raw);
    return result;
  }
  SL_DEVICE void store(Storage* to) const {
    Raw raw;
    memcpy(&raw, this, sizeof raw);
    __stcs(reinterpret_cast<Raw*>(to), raw);
  }
};

template <class Storage>
using Vector = Pack<Storage, uint4>;
template <class Storage>
using Word = Pack<Storage, std::conditional_t<sizeof(Storage) <= 4, unsigned, unsigned long long>>;

SL_DEVICE int64_t voxel_offset(const View& view, int64_t voxel) {
  if (view.dims == 1) return voxel * view.stride[0];
  int64_t offset = 0;
  for (int d = 2; d > 0; --d) {
    if (d >= view.dims) continue;
    offset += voxel % view.size[d] * view.stride[d];
    voxel /= view.size[d];
  }
  return offset + voxel * view.stride[0];
}

template <class Storage>
SL_DEVICE bool is_aligned(const Storage* at) {
  return reinterpret_cast<uintptr_t>(at) % 16 == 0;
}

}  // namespace segloss
