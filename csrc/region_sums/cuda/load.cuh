// Moves tiles between tensors of any dtype and strides and shared memory. Where the tensor allows
// it a thread moves 16 bytes at a time: along a class's row of voxels, or along a voxel's classes
// (channels last). Lanes are assigned, or take turns, so that they do not meet in a bank.
#pragma once

#include <cstring>

#include "region_sums/cuda/tile.cuh"

namespace segloss::region_sums::cuda {

constexpr int kInFlight = 4;  // vectors that a thread asks for before it waits

template <class Storage>
struct Vector {
  static constexpr int kSize = 16 / sizeof(Storage);
  Storage value[kSize];

  SL_DEVICE static Vector load(const Storage* from) {
    Vector result;
    const uint4 raw = __ldcs(reinterpret_cast<const uint4*>(from));  // read once: do not keep
    memcpy(&result, &raw, sizeof raw);
    return result;
  }
  SL_DEVICE void store(Storage* to) const {
    uint4 raw;
    memcpy(&raw, this, sizeof raw);
    __stcs(reinterpret_cast<uint4*>(to), raw);
  }
  // Moves value[(i + by) mod kSize] to value[i], without an index that only the run knows.
  SL_DEVICE void rotate(int by) {
#pragma unroll
    for (int bit = 1; bit < kSize; bit *= 2) {
      const Vector old = *this;
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        value[i] = (by & bit) != 0 ? old.value[(i + bit) % kSize] : old.value[i];
      }
    }
  }
};

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

// Voxels side by side, every row aligned.
template <class Storage>
SL_DEVICE bool is_row(const View& view, const Storage* tile, int voxels) {
  return view.dims == 1 && view.stride[0] == 1 && voxels >= 32 && is_aligned(tile) &&
         view.channel_stride * int64_t(sizeof(Storage)) % 16 == 0;
}

// Classes side by side, and voxels without a gap between them.
template <class Storage>
SL_DEVICE bool is_packed(const View& view, const Storage* tile, int classes) {
  return view.dims == 1 && view.channel_stride == 1 && classes > 1 && view.stride[0] == classes &&
         is_aligned(tile);
}

// Vectors of the same 32 voxels are the business of 32 / kSize neighbouring lanes; the warp's other
// lanes take the next kSize - 1 classes, whose rows are a bank apart.
template <class Storage>
struct RowLane {
  static constexpr int kSize = Vector<Storage>::kSize;
  int voxel;  // the first of the vector
  int first_class;
  int step;
  SL_DEVICE explicit RowLane(int voxels) {
    const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32, columns = voxels / 32;
    voxel = warp % columns * 32 + lane % (32 / kSize) * kSize;
    first_class = warp / columns * kSize + lane / (32 / kSize);
    step = kThreads / 32 / columns * kSize;
  }
};

template <class Storage, class T>
SL_DEVICE void load_rows(const Storage* from, int64_t plane, int count, const Rows<T>& tile) {
  using Wide = Vector<Storage>;
  const RowLane<Storage> lane(tile.voxels);
  if (lane.voxel + Wide::kSize > count) {  // the vector crosses the tensor's end
    for (int c = lane.first_class; c < tile.classes; c += lane.step) {
      for (int i = 0; i < Wide::kSize; ++i) {
        const int v = lane.voxel + i;
        tile(c, v) = v < count ? widen<T>(from[c * plane + v]) : T(0);
      }
    }
    return;
  }
  const Storage* next = from + lane.first_class * plane + lane.voxel;
  for (int first = lane.first_class; first < tile.classes; first += kInFlight * lane.step) {
    Wide loaded[kInFlight];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      if (first + k * lane.step < tile.classes) loaded[k] = Wide::load(next);
      next += lane.step * plane;
    }
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      const int c = first + k * lane.step;
      if (c >= tile.classes) break;
#pragma unroll
      for (int i = 0; i < Wide::kSize; ++i) tile(c, lane.voxel + i) = widen<T>(loaded[k].value[i]);
    }
  }
}

template <class Storage, class T>
SL_DEVICE void store_rows(const Rows<T>& tile, int count, int64_t plane, Storage* to) {
  using Wide = Vector<Storage>;
  const RowLane<Storage> lane(tile.voxels);
  const bool whole = lane.voxel + Wide::kSize <= count;
  for (int c = lane.first_class; c < tile.classes; c += lane.step) {
    Wide values;
#pragma unroll
    for (int i = 0; i < Wide::kSize; ++i) {
      values.value[i] = narrow<Storage>(tile(c, lane.voxel + i));
    }
    Storage* const row = to + c * plane + lane.voxel;
    if (whole) {
      values.store(row);
      continue;
    }
#pragma unroll
    for (int i = 0; i < Wide::kSize; ++i) {
      if (lane.voxel + i < count) row[i] = values.value[i];
    }
  }
}

// The place in the tile of an element of packed memory.
struct Place {
  int c;
  int v;
  SL_DEVICE Place(const Launch& launch, int element) {
    v = int(__umulhi(unsigned(element), launch.channel_reciprocal));
    c = element - v * launch.channels;
  }
};

// The turn of a lane whose neighbours' vectors are kSize banks away.
template <class Storage>
SL_DEVICE int turn() {
  constexpr int kSize = Vector<Storage>::kSize;
  return int(threadIdx.x) % 32 / (32 / kSize);
}

template <class Storage, class T>
SL_DEVICE void load_packed(const Launch& launch, const Storage* from, int count,
                           const Rows<T>& tile) {
  using Wide = Vector<Storage>;
  constexpr int kStep = kThreads * Wide::kSize;
  const int present = count * tile.classes, total = tile.voxels * tile.classes;
  const int shift = turn<Storage>();
  for (int first = int(threadIdx.x) * Wide::kSize; first < total; first += kInFlight * kStep) {
    Wide loaded[kInFlight];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      const int e = first + k * kStep;
      if (e + Wide::kSize <= present) {
        loaded[k] = Wide::load(from + e);
      } else {
#pragma unroll
        for (int i = 0; i < Wide::kSize; ++i) {
          loaded[k].value[i] = e + i < present ? from[e + i] : narrow<Storage>(T(0));
        }
      }
      loaded[k].rotate(shift);
    }
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
#pragma unroll
      for (int i = 0; i < Wide::kSize; ++i) {
        const int e = first + k * kStep + (i + shift) % Wide::kSize;
        const Place at(launch, e);
        if (e < total) tile(at.c, at.v) = widen<T>(loaded[k].value[i]);
      }
    }
  }
}

template <class Storage, class T>
SL_DEVICE void store_packed(const Launch& launch, const Rows<T>& tile, int count, Storage* to) {
  using Wide = Vector<Storage>;
  const int present = count * tile.classes, shift = turn<Storage>();
  for (int first = int(threadIdx.x) * Wide::kSize; first < present;
       first += kThreads * Wide::kSize) {
    Wide values;
#pragma unroll
    for (int i = 0; i < Wide::kSize; ++i) {
      const int e = first + (i + shift) % Wide::kSize;
      const Place at(launch, e < present ? e : first);
      values.value[i] = narrow<Storage>(tile(at.c, at.v));
    }
    values.rotate(Wide::kSize - shift);
    if (first + Wide::kSize <= present) {
      values.store(to + first);
      continue;
    }
#pragma unroll
    for (int i = 0; i < Wide::kSize; ++i) {
      if (first + i < present) to[first + i] = values.value[i];
    }
  }
}

template <class Storage, class T>
SL_DEVICE void load_strided(const Launch& launch, const View& view, const Storage* from,
                            const Span& span, const Rows<T>& tile) {
  const Lane lane(launch);
  const bool present = lane.voxel < span.count;
  const Storage* const voxel = from + (present ? voxel_offset(view, span.begin + lane.voxel) : 0);
#pragma unroll 4
  for (int c = lane.share; c < tile.classes; c += lane.shares) {
    tile(c, lane.voxel) = present ? widen<T>(voxel[c * view.channel_stride]) : T(0);
  }
}

// A tensor that gets no fast way: targets and weights per class.
template <class T>
SL_DEVICE void load_values(const Launch& launch, const View& view, const Span& span,
                           const Rows<T>& tile) {
  visit_dtype(view.dtype, [&](auto type) {
    using Storage = typename decltype(type)::type;
    const Storage* const item =
        static_cast<const Storage*>(view.data) + span.item * view.batch_stride;
    load_strided(launch, view, item, span, tile);
  });
}

template <class T>
SL_DEVICE void load_input(const Launch& launch, const View& view, const Span& span,
                          const Rows<T>& tile) {
  visit_input<T>(view.dtype, [&](auto type) {
    using Storage = typename decltype(type)::type;
    const Storage* const item =
        static_cast<const Storage*>(view.data) + span.item * view.batch_stride;
    if (is_row(view, item + span.begin, tile.voxels)) {
      load_rows(item + span.begin, view.channel_stride, span.count, tile);
    } else if (is_packed(view, item + span.begin * tile.classes, tile.classes)) {
      load_packed(launch, item + span.begin * tile.classes, span.count, tile);
    } else {
      load_strided(launch, view, item, span, tile);
    }
  });
}

template <class T>
SL_DEVICE void store_gradient(const Launch& launch, const View& view, const Span& span,
                              const Rows<T>& tile) {
  visit_input<T>(view.dtype, [&](auto type) {
    using Storage = typename decltype(type)::type;
    Storage* const item = static_cast<Storage*>(view.data) + span.item * view.batch_stride;
    if (is_row(view, item + span.begin, tile.voxels)) {
      return store_rows(tile, span.count, view.channel_stride, item + span.begin);
    }
    if (is_packed(view, item + span.begin * tile.classes, tile.classes)) {
      return store_packed(launch, tile, span.count, item + span.begin * tile.classes);
    }
    const Lane lane(launch);
    if (lane.voxel >= span.count) return;
    Storage* const voxel = item + voxel_offset(view, span.begin + lane.voxel);
    for (int c = lane.share; c < tile.classes; c += lane.shares) {
      voxel[c * view.channel_stride] = narrow<Storage>(tile(c, lane.voxel));
    }
  });
}

}  // namespace segloss::region_sums::cuda
