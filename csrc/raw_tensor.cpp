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
  PyObject* const is_nested = intern("is_nested");
  PyObject* const is_zero = intern("_is_zerotensor");
  PyObject* const layout = intern("layout");
  PyObject* const requires_grad = intern("requires_grad");
  PyObject* const shape = intern("shape");
  PyObject* const stride = intern("stride");
  // Of torch, which keeps them for ever.
  PyObject *tensor, *parameter, *strided;
  std::array<std::pair<PyObject*, Dtype>, 10> dtypes;

  Names() {
    const py::module_ torch = py::module_::import("torch");
    tensor = kept(torch.attr("Tensor"));
    parameter = kept(torch.attr("nn").attr("Parameter"));
    strided = kept(torch.attr("strided"));
    size_t place = 0;
    for (const auto& [name, code] : {std::pair<const char*, Dtype>{"float32", Dtype::kFloat32},
                                     {"float64", Dtype::kFloat64},
                                     {"float16", Dtype::kFloat16},
                                     {"bfloat16", Dtype::kBFloat16},
                                     {"int64", Dtype::kInt64},
                                     {"uint8", Dtype::kUInt8},
                                     {"bool", Dtype::kBool},
                                     {"int32", Dtype::kInt32},
                                     {"int16", Dtype::kInt16},
                                     {"int8", Dtype::kInt8}}) {
      dtypes[place].first = kept(torch.attr(name));
      dtypes[place++].second = code;
    }
  }

 private:
  static PyObject* kept(const py::object& found) { return found.inc_ref().ptr(); }
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

// Whether the tensor is one of those of which memory holds the values; its memory has been seen to
// be there only when it is read.
bool is_plain(py::handle tensor) {
  const Names& known = names();
  const auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr()));
  if (type != known.tensor && type != known.parameter) return false;
  return get(tensor, known.layout).ptr() == known.strided &&
         get(tensor, known.is_nested).ptr() == Py_False &&
         call(tensor, known.is_zero).ptr() == Py_False;
}

// Reads tensors if all are plain, and those that f(index, tensor) is true for.
template <class F>
std::optional<ReadTensors> read_if(const py::tuple& tensors, const F& f) {
  ReadTensors read{tensors, {}};
  read.raw.reserve(tensors.size());
  try {
    for (size_t i = 0; i < tensors.size(); ++i) {
      const py::handle tensor = PyTuple_GET_ITEM(tensors.ptr(), i);
      if (!is_plain(tensor) || !f(i, tensor)) return std::nullopt;
      read.raw.push_back(read_tensor(tensor));
    }
  } catch (const py::error_already_set&) {  // it wraps another one, as those of vmap do
    return std::nullopt;
  } catch (const std::invalid_argument&) {
    return std::nullopt;
  }
  return read;
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

double number_in(const RawTensor& tensor) {
  if (tensor.numel() != 1) refuse("the gradient of a number is a number");
  if (tensor.dtype == Dtype::kFloat64) return *static_cast<const double*>(tensor.data);
  if (tensor.dtype != Dtype::kFloat32) {
    refuse("the gradient of a number is float32 or float64");
  }
  return *static_cast<const float*>(tensor.data);
}

std::optional<ReadTensors> read_plain(const py::tuple& tensors) {
  return read_if(tensors, [](size_t, py::handle) { return true; });
}

std::optional<ReadTensors> Kinds::read(const py::tuple& tensors, bool records) const {
  if (tensors.size() != kinds_.size()) return std::nullopt;
  const Names& known = names();
  return read_if(tensors, [&](size_t i, py::handle tensor) {
    const py::tuple kind = kinds_[i];
    if (get(tensor, known.dtype).ptr() != PyTuple_GET_ITEM(kind.ptr(), 1)) return false;
    if (!get(tensor, known.shape).equal(kind[0])) return false;
    return i == 0 || !records || get(tensor, known.requires_grad).ptr() == Py_False;
  });
}

}  // namespace segloss
