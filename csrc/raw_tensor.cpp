#include "raw_tensor.h"

#include <array>
#include <stdexcept>
#include <string>
#include <utility>

namespace segloss {
namespace {

namespace py = pybind11;

[[noreturn]] void refuse(const char* why) {
  throw std::invalid_argument(std::string("segloss_fast: not a tensor to be read: ") + why);
}

// What is looked up once: names of attributes, and torch's dtypes.
struct Names {
  PyObject* const data_ptr = intern("data_ptr");
  PyObject* const dtype = intern("dtype");
  PyObject* const is_cpu = intern("is_cpu");
  PyObject* const is_neg = intern("is_neg");
  PyObject* const shape = intern("shape");
  PyObject* const stride = intern("stride");
  std::array<std::pair<PyObject*, Dtype>, 10> dtypes;

  Names() {
    const py::module_ torch = py::module_::import("torch");
    size_t place = 0;
    for (const auto& [name, code] : {std::pair<const char*, Dtype>{"float32", Dtype::kFloat32},
                                     {"float64", Dtype::kFloat64},
                                     {"float16", Dtype::kFloat16},
                                     {"bfloat16", Dtype::kBFloat16},
                                     {"int64", Dtype::kInt64},
                                     {"uint8", Dtype::kUInt8},
                                     {"bool", Dtype::kUInt8},
                                     {"int32", Dtype::kInt32},
                                     {"int16", Dtype::kInt16},
                                     {"int8", Dtype::kInt8}}) {
      dtypes[place].first =
          py::object(torch.attr(name)).release().ptr();  // torch keeps them for ever
      dtypes[place++].second = code;
    }
  }

 private:
  static PyObject* intern(const char* name) { return PyUnicode_InternFromString(name); }
};

const Names& names() {
  static const Names* const found = new Names;  // never freed: the interpreter may be gone by then
  return *found;
}

py::object taken(PyObject* result) {
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

py::object get(py::handle tensor, PyObject* name) {
  return taken(PyObject_GetAttr(tensor.ptr(), name));
}

py::object call(py::handle tensor, PyObject* name) {
  return taken(PyObject_CallMethodNoArgs(tensor.ptr(), name));
}

Dtype code_of(py::handle dtype) {
  for (const auto& [known, code] : names().dtypes) {
    if (dtype.ptr() == known) return code;
  }
  refuse("its dtype is another one");
}

void read_numbers(const py::object& tuple, int64_t rank, int64_t* to) {
  if (!PyTuple_Check(tuple.ptr()) || PyTuple_GET_SIZE(tuple.ptr()) != rank) refuse("its shape");
  for (int64_t d = 0; d < rank; ++d) {
    to[d] = PyLong_AsLongLong(PyTuple_GET_ITEM(tuple.ptr(), d));
    if (to[d] == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    if (to[d] < 0) refuse("its shape");
  }
}

}  // namespace

void prepare_raw_tensors() { names(); }

bool RawTensor::is_contiguous() const {
  int64_t expected = 1;
  for (int64_t d = rank - 1; d >= 0; --d) {
    if (sizes[d] != 1 && strides[d] != expected) return false;
    expected *= sizes[d];
  }
  return true;
}

void RawTensor::squeeze_channels() {
  for (int64_t d = 1; d + 1 < rank; ++d) {
    sizes[d] = sizes[d + 1];
    strides[d] = strides[d + 1];
  }
  --rank;
}

void RawTensor::unsqueeze_channels() {
  if (rank >= kMostDims) refuse("it has too many axes");
  for (int64_t d = rank; d > 1; --d) {
    sizes[d] = sizes[d - 1];
    strides[d] = strides[d - 1];
  }
  sizes[1] = strides[1] = 1;
  ++rank;
}

RawTensor read_tensor(py::handle tensor) {
  const Names& known = names();
  if (get(tensor, known.is_cpu).ptr() != Py_True) refuse("it is not on the CPU");
  if (call(tensor, known.is_neg).ptr() != Py_False) refuse("its values have the other sign");
  RawTensor raw{};
  raw.dtype = code_of(get(tensor, known.dtype));
  const py::object shape = get(tensor, known.shape);
  if (!PyTuple_Check(shape.ptr())) refuse("its shape");
  raw.rank = PyTuple_GET_SIZE(shape.ptr());
  if (raw.rank > RawTensor::kMostDims) refuse("it has too many axes");
  read_numbers(shape, raw.rank, raw.sizes);
  read_numbers(call(tensor, known.stride), raw.rank, raw.strides);
  const py::object address = call(tensor, known.data_ptr);
  raw.data = PyLong_AsVoidPtr(address.ptr());
  if (raw.data == nullptr) {
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    for (int64_t d = 0; d < raw.rank; ++d) {
      if (raw.sizes[d] == 0) return raw;
    }
    refuse("it has no memory");
  }
  return raw;
}

}  // namespace segloss
