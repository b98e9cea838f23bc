// A tensor as Python hands it over, read without an operator of torch: a call of one costs more
// than a small problem. It has the part of the stable interface's tensor that descriptions read.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "voxels/view.h"

namespace segloss {

struct RawTensor {
  static constexpr int64_t kMostDims = 5;

  void* data;
  Dtype dtype;
  int64_t rank;
  int64_t sizes[kMostDims];
  int64_t strides[kMostDims];

  int64_t dim() const { return rank; }
  int64_t size(int64_t d) const { return sizes[d]; }
  int64_t stride(int64_t d) const { return strides[d]; }
  const void* const_data_ptr() const { return data; }

  int64_t numel() const {
    int64_t count = 1;
    for (int64_t d = 0; d < rank; ++d) count *= sizes[d];
    return count;
  }
  bool is_contiguous() const;
  int64_t element_size() const { return size_of(dtype); }

  // Takes out, or puts in, a second axis of size 1.
  void squeeze_channels();
  void unsqueeze_channels();
};

using RawTensors = std::vector<RawTensor>;

inline Dtype dtype_of(const RawTensor& tensor) { return tensor.dtype; }

// Looks up what read_tensor needs. To be called at import: later, one thread would wait for the
// lock of what is made once, with the interpreter's lock, for which the one that makes it waits.
void prepare_raw_tensors();

// Throws std::invalid_argument unless it is a tensor on the CPU with memory of its own whose values
// lie there as they are.
RawTensor read_tensor(pybind11::handle tensor);

// The one number of a tensor of float32 or float64, the gradient of a loss.
double number_in(const RawTensor& tensor);

// Tensors that have been read, and will not be gone before their numbers have been.
struct ReadTensors {
  pybind11::tuple tensors;
  RawTensors raw;
};

// Reads tensors; nothing if one of them is no plain tensor of torch: of another class or layout,
// on another device, or one whose memory is another's or holds other numbers.
std::optional<ReadTensors> read_plain(const pybind11::tuple& tensors);

// What the tensors of a call were like, to see whether those of the next one are, too.
class Kinds {
 public:
  // A shape and a dtype for each.
  explicit Kinds(const pybind11::tuple& kinds) : kinds_(kinds) {}

  // Reads the tensors of a call as read_plain; nothing, too, if they are of other kinds or, where
  // derivatives are recorded, if one behind the first learns.
  std::optional<ReadTensors> read(const pybind11::tuple& tensors, bool records) const;

 private:
  pybind11::tuple kinds_;
};

}  // namespace segloss
