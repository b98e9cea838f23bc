// The sums without torch's operators, of which one alone costs more than a small problem.
#include "confusion_sums/direct.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <vector>

#include "confusion_sums/calls.h"
#include "confusion_sums/describe.h"
#include "parallel.h"
#include "raw_tensor.h"

namespace segloss::confusion_sums {
namespace {

namespace py = pybind11;

void require(bool fits, const char* what) {
  if (!fits) throw std::invalid_argument(what);
}

// Of input, target, and perhaps a weight.
Problem describe_here(const ReadTensors& tensors, int64_t activation,
                      std::optional<int64_t> ignore_index) {
  const RawTensors& raw = tensors.raw;
  require(raw.size() == 2 || raw.size() == 3, "confusion_sums: takes two or three tensors");
  const auto weight = raw.size() == 3 ? std::optional<RawTensor>(raw[2]) : std::nullopt;
  return describe(raw[0], raw[1], weight, activation, ignore_index);
}

double* read_sums(py::handle sums, const Problem& problem) {
  const RawTensor raw = read_tensor(sums);
  require(raw.dtype == Dtype::kFloat64 && raw.numel() == problem.batch * problem.sums() &&
              (raw.numel() == 0 || raw.is_contiguous()),
          "confusion_sums: wrong memory of the sums");
  return static_cast<double*>(raw.data);
}

py::tuple forward(const ReadTensors& tensors, int64_t activation,
                  std::optional<int64_t> ignore_index, py::handle sums) {
  const Problem problem = describe_here(tensors, activation, ignore_index);
  double* const to = read_sums(sums, problem);
  Invalid invalid{0, 0};
  {
    const py::gil_scoped_release release;
    invalid = sum(problem, to);
  }
  return py::make_tuple(invalid.count, invalid.first);
}

// The gradient of the sums is multiplied by a factor, a number in a tensor.
void backward(py::handle grad_sums, py::handle factor, const ReadTensors& tensors,
              int64_t activation, std::optional<int64_t> ignore_index, py::handle grad) {
  const Problem problem = describe_here(tensors, activation, ignore_index);
  const double* const given = read_sums(grad_sums, problem);
  std::vector<double> rows(given, given + problem.batch * problem.sums());
  const double scale = factor.is_none() ? 1.0 : number_in(read_tensor(factor));
  for (double& value : rows) value *= scale;
  const RawTensor& input = tensors.raw[0];
  const RawTensor to = read_tensor(grad);
  require(to.dtype == input.dtype && to.rank == input.rank &&
              std::equal(to.sizes, to.sizes + input.rank, input.sizes),
          "confusion_sums: wrong memory for a gradient");
  const View view = view_of(to, true, to.data);
  const py::gil_scoped_release release;
  advise_huge_pages(to.data, to.numel() * to.element_size());
  differentiate(problem, rows.data(), view);
}

}  // namespace

void bind(py::module_& m) {
  using py::arg;
  m.def("confusion_sums", &forward, arg("tensors"), arg("activation"), arg("ignore_index"),
        arg("sums"), "Write the sums; return how many labels are invalid, and the first.");
  m.def("confusion_sums_backward", &backward, arg("grad_sums"), arg("factor"), arg("tensors"),
        arg("activation"), arg("ignore_index"), arg("grad"),
        "Write the gradient of the input; of a factor, a number, that is not None, times that.");
}

}  // namespace segloss::confusion_sums
