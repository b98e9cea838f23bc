// Class indices of any dtype become the class, or a negative number where no class is hit.
#pragma once

#include "voxels/cuda/math.cuh"

namespace segloss {

constexpr int32_t kNoClass = -1;  // the background of a binary problem, or an invalid label
constexpr int32_t kIgnored = -2;

struct LabelRule {
  int channels;
  bool has_ignore;
  int64_t ignore_index;
};

template <class Storage>
struct LabelType {  // compared as this
  using type = std::conditional_t<std::is_integral_v<Storage>,
                                  std::conditional_t<sizeof(Storage) <= 2, int32_t, Storage>,
                                  std::conditional_t<sizeof(Storage) == 8, double, float>>;
};

// The label's class, or kNoClass or kIgnored. Never used as an index before it is a class.
template <class T>
SL_DEVICE int32_t code_of(const LabelRule& rule, T value) {
  const T ignored = static_cast<T>(rule.ignore_index);
  bool ignores = rule.has_ignore;
  if constexpr (std::is_integral_v<T>) {  // a label that the dtype cannot hold ignores nothing
    ignores = ignores && int64_t(ignored) == rule.ignore_index;
  }
  if (ignores && value == ignored) return kIgnored;
  if (rule.channels == 1) return value != 0 ? 0 : kNoClass;
  bool valid = value >= 0 && value < static_cast<T>(rule.channels);
  if constexpr (std::is_floating_point_v<T>) valid = valid && whole_part(value) == value;
  return valid ? static_cast<int32_t>(value) : kNoClass;
}

}  // namespace segloss
