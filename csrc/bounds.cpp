#include "bounds.h"

#include <cmath>
#include <cstdint>
#include <limits>

#include "raw_tensor.h"

namespace segloss {
namespace {

// In single precision as in double: between the outermost floats that lie within.
template <class T>
bool within(const void* data, int64_t n, double least, double most) {
  T low = T(least), high = T(most);
  if (double(low) < least) low = std::nextafter(low, std::numeric_limits<T>::infinity());
  if (double(high) > most) high = std::nextafter(high, -std::numeric_limits<T>::infinity());
  const T* const x = static_cast<const T*>(data);
  int32_t beyond = 0;
#pragma omp simd reduction(| : beyond)
  for (int64_t i = 0; i < n; ++i) beyond |= int32_t(!(x[i] >= low)) | int32_t(!(x[i] <= high));
  return beyond == 0;
}

}  // namespace

std::optional<bool> all_within(pybind11::handle tensor, double least, double most) {
  const auto read = read_plain(pybind11::make_tuple(tensor));
  if (!read) return std::nullopt;
  const RawTensor& raw = read->raw.front();
  if (!raw.is_contiguous()) return std::nullopt;
  if (raw.dtype == Dtype::kFloat32) return within<float>(raw.data, raw.numel(), least, most);
  if (raw.dtype == Dtype::kFloat64) return within<double>(raw.data, raw.numel(), least, most);
  return std::nullopt;
}

}  // namespace segloss
