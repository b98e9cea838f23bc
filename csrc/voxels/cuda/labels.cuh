// Reads class indices of any dtype, or values of one class.
#pragma once

#include <type_traits>

#include "voxels/cuda/memory.cuh"

namespace segloss {

constexpr int32_t kNoClass = -1;  // the background of the only class
constexpr int32_t kIgnored = -2;  // also the voxels behind the end of the tensor
constexpr int32_t kInvalid = -3;  // no class, or a value outside of [0, 1]

struct InvalidLabels {
  unsigned long long count;
  unsigned long long first;  // voxel in the block's chunk
};

template <class Storage>
struct LabelType {  // compared as this
  using type = std::conditional_t<is_whole_type<Storage>,
                                  std::conditional_t<sizeof(Storage) <= 2, int32_t, Storage>,
                                  std::conditional_t<sizeof(Storage) == 8, double, float>>;
};

struct LabelRule {
  int channels;
  bool has_ignore;
  int64_t ignore_index;
  bool values = false;  // of one class; those above one half are its foreground
};

// The label's class, or one of the above. Never used as an index before it is a class. The rule
// is a LabelRule, or has its members.
template <class Rule, class T>
SL_DEVICE int32_t code_of(const Rule& rule, T value) {
  const T ignored = static_cast<T>(rule.ignore_index);
  bool ignores = rule.has_ignore;
  if constexpr (std::is_integral_v<T>) {  // a label that the dtype cannot hold ignores nothing
    ignores = ignores && int64_t(ignored) == rule.ignore_index;
  }
  if (ignores && value == ignored) return kIgnored;
  if (rule.channels == 1) {
    const bool valid = rule.values ? value >= 0 && value <= 1 : value == 0 || value == 1;
    return valid ? (value > T(0.5) ? 0 : kNoClass) : kInvalid;
  }
  bool valid = value >= 0 && value < static_cast<T>(rule.channels);
  if constexpr (std::is_floating_point_v<T>) valid = valid && whole_part(value) == value;
  return valid ? static_cast<int32_t>(value) : kInvalid;
}

// Calls f(the label at that offset of the item), as what it is compared as.
template <class F>
SL_DEVICE void visit_label(const View& view, int64_t offset, F f) {
  visit_dtype(view.dtype, [&](auto type) {
    using Storage = typename decltype(type)::type;
    const Storage label = static_cast<const Storage*>(view.data)[offset];
    f(widen<typename LabelType<Storage>::type>(label));
  });
}

SL_DEVICE int64_t item_offset(const View& view, int64_t item, int64_t voxel) {
  return item * view.batch_stride + voxel_offset(view, voxel);
}

}  // namespace segloss
