// What kernels read of a tensor.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace segloss {

// The data of a tensor, which kernels read as whole elements: elsewhere than at multiples of their
// size, as in records that are packed, that is undefined.
template <class AnyTensor>
const void* data_of(const AnyTensor& tensor) {
  const void* const data = tensor.const_data_ptr();
  const auto size = uintptr_t(tensor.element_size());
  STD_TORCH_CHECK(reinterpret_cast<uintptr_t>(data) % size == 0,
                  "segloss_fast: a tensor of elements of ", size,
                  " bytes must begin at a multiple of that in memory, this one does not; pass its "
                  "clone(), which does");
  return data;
}

}  // namespace segloss
