// Moves tiles between tensors of any dtype and strides and shared memory. Where the tensor allows
// it a thread moves 16 bytes at a time along a class's row of voxels, or a warp a line of a voxel's
// classes (channels last). Lanes are assigned so that they do not meet in a bank.
#pragma once

#include "region_sums/cuda/tile.cuh"
#include "voxels/cuda/memory.cuh"

namespace segloss::region_sums::cuda {

// What a thread asks for before it waits.
template <class Storage>
constexpr int kVectorsInFlight = sizeof(Storage) < 4 ? 2 : 4;
constexpr int kWordsInFlight = 5;

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
    const int thread = thread_again(), lane = thread % 32, warp = thread / 32;
    const int columns = voxels / 32;
    voxel = warp % columns * 32 + lane % (32 / kSize) * kSize;
    first_class = warp / columns * kSize + lane / (32 / kSize);
    step = kThreads / 32 / columns * kSize;
  }
};

template <class Storage, class T>
SL_DEVICE void load_rows(const Storage* from, int64_t plane, int count, const Rows<T>& tile) {
  using Wide = Vector<Storage>;
  constexpr int kInFlight = kVectorsInFlight<Storage>;
  const RowLane<Storage> lane(tile.voxels);
  const Storage* next = from + lane.first_class * plane + lane.voxel;
  if (lane.voxel + Wide::kSize > count) {  // the vector crosses the tensor's end
#pragma unroll 1
    for (int c = lane.first_class; c < tile.classes; c += lane.step, next += lane.step * plane) {
#pragma unroll 1
      for (int i = 0; i < Wide::kSize; ++i) {
        tile(c, lane.voxel + i) = lane.voxel + i < count ? widen<T>(next[i]) : T(0);
      }
    }
    return;
  }
  T* to = &tile(lane.first_class, lane.voxel);
#pragma unroll 1
  for (int first = lane.first_class; first < tile.classes; first += kInFlight * lane.step) {
    Wide loaded[kInFlight];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      if (first + k * lane.step < tile.classes) {
        loaded[k] = Wide::load(next);
      }
      next += lane.step * plane;
    }
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      if (first + k * lane.step < tile.classes) {
#pragma unroll
        for (int i = 0; i < Wide::kSize; ++i) to[i] = widen<T>(loaded[k].value[i]);
      }
      to += lane.step * (tile.voxels + 1);
    }
  }
}

template <class Storage, class T>
SL_DEVICE void store_rows(const Rows<T>& tile, int count, int64_t plane, Storage* to) {
  using Wide = Vector<Storage>;
  const RowLane<Storage> lane(tile.voxels);
  const bool whole = lane.voxel + Wide::kSize <= count;
#pragma unroll 2
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

// By the word: the 128 bytes of a warp are a whole line as well, and neighbouring lanes then write
// neighbouring banks, which lanes that hold 16 bytes would not.
template <class Storage, class T>
SL_DEVICE void load_packed(const Launch& launch, const Storage* from, int count,
                           const Rows<T>& tile) {
  constexpr int kSize = Word<Storage>::kSize, kStep = kThreads * kSize;
  const int present = count * tile.classes, total = tile.voxels * tile.classes;
#pragma unroll 1
  for (int first = thread_again() * kSize; first < total; first += kWordsInFlight * kStep) {
    Word<Storage> loaded[kWordsInFlight];
#pragma unroll
    for (int k = 0; k < kWordsInFlight; ++k) {
      const int e = first + k * kStep;
      if (e + kSize <= present) {
        loaded[k] = Word<Storage>::load(from + e);
      } else {
        loaded[k].value[0] = e < present ? from[e] : narrow<Storage>(T(0));
        loaded[k].value[kSize - 1] = kSize == 1 ? loaded[k].value[0] : narrow<Storage>(T(0));
      }
    }
#pragma unroll
    for (int k = 0; k < kWordsInFlight; ++k) {
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        const int e = first + k * kStep + i;
        const Place at(launch, e);
        if (e < total) tile(at.c, at.v) = widen<T>(loaded[k].value[i]);
      }
    }
  }
}

template <class Storage, class T>
SL_DEVICE void store_packed(const Launch& launch, const Rows<T>& tile, int count, Storage* to) {
  constexpr int kSize = Word<Storage>::kSize;
  const int present = count * tile.classes;
#pragma unroll 4
  for (int e = thread_again() * kSize; e < present; e += kThreads * kSize) {
    Word<Storage> word;
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      const Place at(launch, e + i < present ? e + i : e);
      word.value[i] = narrow<Storage>(tile(at.c, at.v));
    }
    if (e + kSize <= present) {
      word.store(to + e);
    } else {
      to[e] = word.value[0];
    }
  }
}

template <class Storage, class T>
SL_DEVICE void load_strided(const Launch& launch, const View& view, const Storage* from,
                            const Span& span, const Rows<T>& tile) {
  const Lane lane(launch, thread_again());
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
    const Lane lane(launch, thread_again());
    if (lane.voxel >= span.count) return;
    Storage* const voxel = item + voxel_offset(view, span.begin + lane.voxel);
    for (int c = lane.share; c < tile.classes; c += lane.shares) {
      voxel[c * view.channel_stride] = narrow<Storage>(tile(c, lane.voxel));
    }
  });
}

}  // namespace segloss::region_sums::cuda
