// Reads class indices of any dtype, and the weight of each voxel.
#pragma once

#include "region_sums/cuda/load.cuh"

namespace segloss::region_sums::cuda {

template <class Storage>
struct LabelType {  // compared as this
  using type = std::conditional_t<std::is_integral_v<Storage>,
                                  std::conditional_t<sizeof(Storage) <= 2, int32_t, Storage>,
                                  std::conditional_t<sizeof(Storage) == 8, double, float>>;
};

// The label's class, or kNoClass or kIgnored. Never used as an index before it is a class.
template <class T>
SL_DEVICE int32_t code_of(const Launch& launch, T value) {
  const T ignored = static_cast<T>(launch.ignore_index);
  bool ignores = launch.has_ignore;
  if constexpr (std::is_integral_v<T>) {  // a label that the dtype cannot hold ignores nothing
    ignores = ignores && int64_t(ignored) == launch.ignore_index;
  }
  if (ignores && value == ignored) return kIgnored;
  if (launch.channels == 1) return value != 0 ? 0 : kNoClass;
  bool valid = value >= 0 && value < static_cast<T>(launch.channels);
  if constexpr (std::is_floating_point_v<T>) valid = valid && whole_part(value) == value;
  return valid ? static_cast<int32_t>(value) : kNoClass;
}

// Calls f(the label of the voxel), compared as it may be.
template <class F>
SL_DEVICE void visit_label(const View& view, int64_t item, int64_t voxel, F f) {
  visit_dtype(view.dtype, [&](auto type) {
    using Storage = typename decltype(type)::type;
    const Storage* const from = static_cast<const Storage*>(view.data) + item * view.batch_stride;
    f(widen<typename LabelType<Storage>::type>(from[voxel_offset(view, voxel)]));
  });
}

template <class T>
SL_DEVICE T shared_weight(const View& view, const Span& span, int voxel) {
  T weight = 0;
  visit_dtype(view.dtype, [&](auto type) {
    using Storage = typename decltype(type)::type;
    if constexpr (!std::is_integral_v<Storage>) {
      const Storage* const from =
          static_cast<const Storage*>(view.data) + span.item * view.batch_stride;
      weight = widen<T>(from[voxel_offset(view, span.begin + voxel)]);
    }
  });
  return weight;
}

// Writes labels and weights of the tile's voxels, one thread each.
template <class T>
SL_DEVICE void load_voxels(const Launch& launch, const Chunk& chunk, const Span& span,
                           const Shared<T>& s) {
  const int v = int(threadIdx.x);
  if (v >= launch.tile_voxels) return;
  const Level& level = *chunk.level;
  int32_t label = kIgnored;
  if (v < span.count) {
    label = kNoClass;
    if (!launch.dense_target) {
      visit_label(level.target, span.item, span.begin + v,
                  [&](auto value) { label = code_of(launch, value); });
    }
    if (label == kNoClass && !launch.dense_target && launch.channels > 1) {
      atomicAdd(&s.invalid->count, 1ull);
      const int64_t in_chunk = span.begin + v - chunk.begin;
      atomicMin(&s.invalid->first, static_cast<unsigned long long>(in_chunk));
    }
  }
  T weight = label == kIgnored ? T(0) : T(1);
  if (label != kIgnored && launch.has_weight && !launch.class_weight) {
    weight = shared_weight<T>(level.weight, span, v);
  }
  s.voxels[v].label = label;
  s.voxels[v].weight = weight;
}

// Sets the logits of ignored voxels to 0, so that a NaN in one does not spread.
template <class T>
SL_DEVICE void clear_ignored(const Lane& lane, const Shared<T>& s) {
  if (s.voxels[lane.voxel].label != kIgnored) return;
  for (int c = lane.share; c < s.x.classes; c += lane.shares) s.x(c, lane.voxel) = 0;
}

// Loads the tile, and waits for it; afterwards a thread may read what it looks after (Lane), and
// all that is not x.
template <class T>
SL_DEVICE void load_tile(const Launch& launch, const Chunk& chunk, const Span& span,
                         const Lane& lane, const Shared<T>& s) {
  load_input(launch, chunk.level->input, span, s.x);
  load_voxels(launch, chunk, span, s);
  if (launch.dense_target) load_values(launch, chunk.level->target, span, s.target);
  if (launch.class_weight) load_values(launch, chunk.level->weight, span, s.weight);
  __syncthreads();
  clear_ignored(lane, s);
}

}  // namespace segloss::region_sums::cuda
