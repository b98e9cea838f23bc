// In the place of torch's header of this name: see tensor.h.
#pragma once

#include <map>
#include <string>
#include <typeinfo>

#include "torch/csrc/stable/tensor.h"

namespace torch::stable {

// The operators by name, with the type of each function.
class Library {
 public:
  void def(const char*) {}

  template <class R, class... A>
  void impl(const char* name, R (*function)(A...)) {
    found_[name] = {reinterpret_cast<void (*)()>(function), &typeid(R(A...))};
  }

  template <class Signature>
  Signature* get(const char* name) const {
    const auto [function, type] = found_.at(name);
    STD_TORCH_CHECK(*type == typeid(Signature), name, " is ", type->name());
    return reinterpret_cast<Signature*>(function);
  }

 private:
  std::map<std::string, std::pair<void (*)(), const std::type_info*>> found_;
};

inline Library& library() {
  static Library all;
  return all;
}

}  // namespace torch::stable

#define TORCH_BOX(function) function
#define STABLE_TORCH_LIBRARY_FRAGMENT(name, m) STUB_BODY(m, __COUNTER__)
#define STABLE_TORCH_LIBRARY_IMPL(name, device, m) STUB_BODY(m, __COUNTER__)
#define STUB_BODY(m, number) STUB_BODY_OF(m, number)
#define STUB_BODY_OF(m, number)                             \
  static void stub_body_##number(torch::stable::Library&);  \
  [[maybe_unused]] static const bool stub_done_##number =   \
      (stub_body_##number(torch::stable::library()), true); \
  static void stub_body_##number([[maybe_unused]] torch::stable::Library& m)
