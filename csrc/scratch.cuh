// Memory that the kernels of one call leave to each other, and nobody gets. It comes from a single
// allocation: each goes through torch's dispatcher, which takes the host longer than a launch.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "allocate.h"

namespace segloss {

class Scratch {
 public:
  using Tensor = torch::stable::Tensor;

  template <class T>
  struct Piece {
    size_t index;
  };

  // Asks for so many values, whose memory lies at at() after allocate().
  template <class T>
  Piece<T> ask(int64_t count) {
    static_assert(alignof(T) <= kAlignment);
    const int64_t bytes = count * int64_t(sizeof(T));
    pieces_.push_back({end_, bytes});
    end_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return {pieces_.size() - 1};
  }

  void allocate(const Tensor& like) {
    const auto empty = [&](int64_t bytes) {
      return allocate_at(like, {bytes}, torch::headeronly::ScalarType::Byte);
    };
#ifdef __SANITIZE_ADDRESS__  // each by itself, so that it is seen who leaves its piece
    for (const Extent& piece : pieces_) memory_.push_back(empty(piece.bytes));
#else
    memory_.push_back(empty(end_));
#endif
  }

  template <class T>
  T* at(Piece<T> piece) const {
#ifdef __SANITIZE_ADDRESS__
    return static_cast<T*>(memory_[piece.index].mutable_data_ptr());
#else
    char* const memory = static_cast<char*>(memory_[0].mutable_data_ptr());
    return reinterpret_cast<T*>(memory + pieces_[piece.index].begin);
#endif
  }

 private:
  static constexpr int64_t kAlignment = 128;  // a cache line

  struct Extent {
    int64_t begin, bytes;
  };

  std::vector<Extent> pieces_;
  int64_t end_ = 0;
  std::vector<Tensor> memory_;
};

}  // namespace segloss
