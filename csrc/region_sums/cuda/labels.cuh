// Reads the class, or the value of one class, and the weight of each voxel.
#pragma once

#include "region_sums/cuda/load.cuh"
#include "region_sums/cuda/plan.cuh"
#include "voxels/cuda/labels.cuh"

namespace segloss::region_sums::cuda {

template <class T>
SL_DEVICE T shared_weight(const View& view, int64_t offset) {
  switch (view.dtype) {
    case Dtype::kFloat64:
      return T(static_cast<const double*>(view.data)[offset]);
    case Dtype::kFloat16:
      return widen<T>(static_cast<const __half*>(view.data)[offset]);
    case Dtype::kBFloat16:
      return widen<T>(static_cast<const __nv_bfloat16*>(view.data)[offset]);
    case Dtype::kBool:
      return T(static_cast<const Bool*>(view.data)[offset]);
    case Dtype::kUInt8:
      return T(static_cast<const uint8_t*>(view.data)[offset]);
    default:
      return T(static_cast<const float*>(view.data)[offset]);
  }
}

// Writes labels and weights of the tile's voxels, one thread each.
template <class T, class Choice>
SL_DEVICE void load_voxels(const Launch& launch, const Plan<Choice>& plan, const Chunk& chunk,
                           const Span& span, const Shared<T>& s) {
  const int v = thread_again();
  if (v >= launch.tile_voxels) return;
  const Level& level = *chunk.level;
  const LabelRule rule{launch.channels, launch.has_ignore, launch.ignore_index, plan.dense()};
  const bool one_value = plan.dense() && launch.channels == 1;
  if (one_value) s.target(0, v) = 0;
  int32_t label = kIgnored;  // also behind the end of the tensor
  if (v < span.count) {
    label = kNoClass;
    if (!plan.dense() || one_value) {
      const int64_t offset = item_offset(level.target, span.item, span.begin + v);
      visit_label(level.target, offset, [&](auto value) {
        label = code_of(rule, value);
        if (one_value && label != kIgnored) s.target(0, v) = T(value);
      });
    }
    if (label == kInvalid) {
      atomicAdd(&s.invalid->count, 1ull);
      const int64_t in_chunk = span.begin + v - chunk.begin;
      atomicMin(&s.invalid->first, static_cast<unsigned long long>(in_chunk));
    }
  }
  T weight = label == kIgnored ? T(0) : T(1);
  if (label != kIgnored && launch.has_weight && !plan.class_weight()) {
    weight = shared_weight<T>(level.weight, item_offset(level.weight, span.item, span.begin + v));
  }
  s.voxels[v].label = label;
  s.voxels[v].weight = weight;
}

// Sets the logits of ignored voxels to 0, so that a NaN in one does not spread; or gradients, to
// which one came from the sums.
template <class T>
SL_DEVICE void clear_ignored(const Lane& lane, const Shared<T>& s) {
  if (s.voxels[lane.voxel].label != kIgnored) return;
  for (int c = lane.share; c < s.x.classes; c += lane.shares) s.x(c, lane.voxel) = 0;
}

// Loads the tile, and waits for it; afterwards a thread may read what it looks after (Lane), and
// all that is not x.
template <class T, class Choice>
SL_DEVICE void load_tile(const Launch& launch, const Plan<Choice>& plan, const Chunk& chunk,
                         const Span& span, const Lane& lane, const Shared<T>& s) {
  const Level& level = *chunk.level;
  load_input(launch, level.input, span, s.x);
  load_voxels(launch, plan, chunk, span, s);
  if (plan.dense() && launch.channels > 1) load_values(launch, level.target, span, s.target);
  if (plan.class_weight()) load_values(launch, level.weight, span, s.weight);
  __syncthreads();
  clear_ignored(lane, s);
}

}  // namespace segloss::region_sums::cuda
