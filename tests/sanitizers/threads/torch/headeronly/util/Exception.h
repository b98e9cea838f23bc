// In the place of torch's header of this name: see ../../csrc/stable/tensor.h.
#pragma once

#include <sstream>
#include <stdexcept>

namespace torch::headeronly {

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

}  // namespace torch::headeronly

#define STD_TORCH_CHECK(condition, ...) \
  ((condition) ? void() : torch::headeronly::fail(__VA_ARGS__))
