// A warp's tile of voxels: their labels, weights and bins.
#pragma once

#include "component_sums/cuda/problem.h"
#include "voxels/cuda/labels.cuh"

namespace segloss::component_sums::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kNowhere = -1;  // no bin

template <class Storage>
using Computed = std::conditional_t<std::is_same_v<Storage, double>, double, float>;

// On a multiprocessor at least.
template <class Storage>
constexpr int kBlocks = std::is_same_v<Storage, double> ? 1 : 2;

// See voxels/cuda/quads.cuh.
struct Tile {
  static constexpr bool kRolled = true;
  int64_t item;
  int64_t begin;
  int count;
  bool wide;

  template <class Storage>
  SL_DEVICE static Tile of(const Problem& problem, int64_t item, int64_t index) {
    Tile tile{item, index * kTile, kTile, false};
    const int64_t left = problem.voxels - tile.begin;
    tile.count = left < kTile ? int(left) : kTile;
    const Storage* const row =
        static_cast<const Storage*>(problem.input.data) + item * problem.input.batch_stride;
    tile.wide = tile.count % kQuad == 0 && is_row<Storage>(problem.input, row + tile.begin);
    return tile;
  }

  SL_DEVICE int voxel(int i, int thread) const {
    const int lane = thread % 32;
    return wide ? lane * kQuad + i : lane + i * 32;
  }
  SL_DEVICE int voxel(int i) const { return voxel(i, int(threadIdx.x)); }
  SL_DEVICE bool has(int i) const { return voxel(i) < count; }
};

// Notes an invalid label or value: how many there are, and the complement of where the first is.
SL_DEVICE void complain(const Accumulators* to, int64_t where) {
  if (to == nullptr) return;
  atomicAdd(to->invalid, 1ull);
  atomicMax(to->invalid + 1, ~static_cast<unsigned long long>(where));
}

// The classes of the thread's voxels; a dense target has none. Voxels that are not there are
// ignored. Invalid ones are noted where `to` is not null.
SL_DEVICE void read_labels(const Problem& problem, const Tile& tile, const Accumulators* to,
                           int32_t (&label)[kQuad]) {
#pragma unroll
  for (int i = 0; i < kQuad; ++i) label[i] = tile.has(i) ? kNoClass : kIgnored;
  if (problem.dense_target) return;
  const LabelRule rule{int(problem.channels), problem.has_ignore, problem.ignore_index};
  // Of all dtypes only the loads differ: code for each that judges labels would be most of a
  // kernel.
  int64_t whole[kQuad], offset[kQuad]{};
  double real[kQuad];
  find_offsets(problem.target, tile, offset);
  const bool is_real = problem.target.dtype <= Dtype::kBFloat16;
  visit_dtype(problem.target.dtype, [&](auto type) {
    using Storage = typename decltype(type)::type;
    const Storage* const from =
        static_cast<const Storage*>(problem.target.data) + tile.item * problem.target.batch_stride;
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      const Storage value = from[offset[i]];
      if constexpr (is_whole_type<Storage>) {
        whole[i] = value;
      } else {
        real[i] = widen<double>(value);
      }
    }
  });
#pragma unroll
  for (int i = 0; i < kQuad; ++i) {
    if (!tile.has(i)) continue;
    label[i] = is_real ? code_of(rule, real[i]) : code_of(rule, whole[i]);
  }
#pragma unroll
  for (int i = 0; i < kQuad; ++i) {
    if (label[i] == kInvalid) {
      complain(to, tile.item * problem.voxels + tile.begin + tile.voxel(i));
    }
  }
}

// Which of the thread's voxels are of class c, a bit each.
SL_DEVICE unsigned find_inside(const Problem& problem, const Tile& tile, int c,
                               const int32_t (&label)[kQuad], const Accumulators* to) {
  unsigned inside = 0;
  if (!problem.dense_target) {
#pragma unroll
    for (int i = 0; i < kQuad; ++i) inside |= label[i] == c ? 1u << i : 0;
    return inside;
  }
  const int64_t first = (tile.item * problem.channels + c) * problem.voxels;
#pragma unroll 1
  for (int i = 0; i < kQuad; ++i) {
    if (!tile.has(i)) continue;
    const int64_t voxel = tile.begin + tile.voxel(i);
    const int64_t at =
        item_offset(problem.target, tile.item, voxel) + c * problem.target.channel_stride;
    visit_label(problem.target, at, [&](auto value) {
      inside |= value != 0 ? 1u << i : 0;
      if (value != 0 && value != 1) complain(to, first + voxel);
    });
  }
  return inside;
}

// The weights of class c: 0 where ignored.
template <class T>
SL_DEVICE void load_weights(const Problem& problem, const Tile& tile, int c,
                            const int32_t (&label)[kQuad], T (&w)[kQuad]) {
#pragma unroll
  for (int i = 0; i < kQuad; ++i) w[i] = 1;
  if (problem.has_weight && problem.weight.dtype == Dtype::kFloat32) {
    Row<float>(problem.weight, tile).load(c, w);
  } else if (problem.has_weight) {
    int64_t offset[kQuad]{};
    find_offsets(problem.weight, tile, offset);
    const auto load = [&](auto type) {
      using Storage = typename decltype(type)::type;
      const Storage* const from = static_cast<const Storage*>(problem.weight.data) +
                                  tile.item * problem.weight.batch_stride +
                                  c * problem.weight.channel_stride;
#pragma unroll
      for (int i = 0; i < kQuad; ++i) w[i] = widen<T>(from[offset[i]]);
    };
    if (problem.weight.dtype == Dtype::kFloat64) {
      load(Type<double>());
    } else {
      visit_input<float>(problem.weight.dtype, load);
    }
  }
#pragma unroll
  for (int i = 0; i < kQuad; ++i) w[i] = label[i] == kIgnored ? T(0) : w[i];
}

// The bins of class c: those out of range as 0, and whether there are any of these; kNowhere for
// voxels that are not there.
SL_DEVICE bool load_bins(const Problem& problem, const Tile& tile, int c, int32_t (&bin)[kQuad]) {
  Row<int32_t>(problem.bins, tile).load(c, bin);
  bool outside = false;
#pragma unroll
  for (int i = 0; i < kQuad; ++i) {
    const bool bad = uint32_t(bin[i]) > uint32_t(problem.count);
    outside |= bad && tile.has(i);
    bin[i] = tile.has(i) ? (bad ? 0 : bin[i]) : kNowhere;
  }
  return outside;
}

// The logits of class c, 0 where ignored, so that a NaN does not count there.
template <class Storage, class T>
SL_DEVICE void load_logits(const Problem& problem, const Tile& tile, int c,
                           const int32_t (&label)[kQuad], T (&x)[kQuad]) {
  Row<Storage>(problem.input, tile).load(c, x);
#pragma unroll
  for (int i = 0; i < kQuad; ++i) x[i] = label[i] == kIgnored ? T(0) : x[i];
}

}  // namespace segloss::component_sums::cuda
