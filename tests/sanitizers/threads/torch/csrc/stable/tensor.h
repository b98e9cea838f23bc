// The part of torch's stable interface that the bindings use, over std::thread and plain memory.
//
// The sanitizer of threads must see how threads are begun and waited for, which it cannot in
// torch's own, built without it. With these headers in the place of torch's the native code is
// compiled as it is, and runs without torch.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "torch/headeronly/core/ScalarType.h"
#include "torch/headeronly/util/Exception.h"

namespace torch::stable {

using headeronly::ScalarType;

inline int64_t bytes_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Long:
    case ScalarType::Double:
    case ScalarType::ComplexFloat:
    case ScalarType::UInt64:
      return 8;
    case ScalarType::Int:
    case ScalarType::Float:
    case ScalarType::UInt32:
      return 4;
    case ScalarType::Short:
    case ScalarType::Half:
    case ScalarType::BFloat16:
    case ScalarType::UInt16:
      return 2;
    default:
      return 1;
  }
}

// Contiguous, and of memory that nobody has filled.
class Tensor {
 public:
  Tensor() : Tensor({0}, ScalarType::Byte) {}
  Tensor(std::vector<int64_t> sizes, ScalarType dtype)
      : sizes_(std::move(sizes)), strides_(sizes_.size()), dtype_(dtype) {
    int64_t values = 1;
    for (size_t d = sizes_.size(); d-- > 0; values *= sizes_[d]) strides_[d] = values;
    numel_ = values;
    memory_.reset(std::aligned_alloc(64, size_t(values * bytes_of(dtype) + 127) / 64 * 64),
                  std::free);
    data_ = static_cast<char*>(memory_.get());
  }

  int64_t dim() const { return int64_t(sizes_.size()); }
  int64_t numel() const { return numel_; }
  int64_t size(int64_t d) const { return sizes_[at(d)]; }
  int64_t stride(int64_t d) const { return strides_[at(d)]; }
  const std::vector<int64_t>& sizes() const { return sizes_; }
  ScalarType scalar_type() const { return dtype_; }
  int64_t element_size() const { return bytes_of(dtype_); }
  bool is_contiguous() const { return true; }
  void* mutable_data_ptr() const { return data_; }
  const void* const_data_ptr() const { return data_; }

 private:
  size_t at(int64_t d) const { return size_t(d < 0 ? d + dim() : d); }

  std::vector<int64_t> sizes_, strides_;
  ScalarType dtype_;
  int64_t numel_ = 0;
  std::shared_ptr<void> memory_;
  char* data_ = nullptr;
};

}  // namespace torch::stable
