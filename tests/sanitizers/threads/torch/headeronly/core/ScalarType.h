// In the place of torch's header of this name: see ../../csrc/stable/tensor.h.
#pragma once

#include <cstdint>

namespace torch::headeronly {

enum class ScalarType : int8_t {
  Byte,
  Char,
  Short,
  Int,
  Long,
  Half,
  Float,
  Double,
  ComplexFloat = 9,
  Bool = 11,
  BFloat16 = 15,
  UInt16 = 27,
  UInt32,
  UInt64
};

}  // namespace torch::headeronly
