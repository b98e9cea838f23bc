// The sums of a call, a formula of them and its gradient at once; then the gradient of the inputs.
// Without torch's operators and tensors between them, of which each costs more than a small
// problem: segloss_fast/ops/region_sums/direct.py, which says what calls come here.
#include "region_sums/step.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "formula/program.h"
#include "parallel.h"
#include "raw_tensor.h"
#include "region_sums/calls.h"
#include "region_sums/describe.h"

namespace segloss::region_sums {
namespace {

namespace py = pybind11;

void require(bool fits, const char* what) {
  if (!fits) throw std::invalid_argument(std::string("region_sums: ") + what);
}

// Gives a target the axes that describe() expects: class indices [B, *S], values [B, C, *S]. Of one
// class floating-point numbers are values, all others labels, in either shape.
void arrange(const RawTensor& input, RawTensor* target) {
  const bool one_class = input.dim() > 1 && input.size(1) == 1;
  const bool values = one_class && is_floating(target->dtype);
  if (values && target->dim() == input.dim() - 1 && target->dim() > 0) {
    target->unsqueeze_channels();
  } else if (!values && target->dim() == input.dim() && target->dim() > 1 && target->size(1) == 1) {
    target->squeeze_channels();
  }
}

// The tensors of a call, which Python holds while it lasts.
struct Tensors {
  RawTensors inputs, targets, weights;

  Tensors(const RawTensors& raw, size_t levels) {
    require(levels > 0 && (raw.size() == 2 * levels || raw.size() == 3 * levels),
            "inputs, targets and weights must be as many");
    inputs.assign(raw.begin(), raw.begin() + levels);
    targets.assign(raw.begin() + levels, raw.begin() + 2 * levels);
    weights.assign(raw.begin() + 2 * levels, raw.end());
  }
};

// The sums alone, and the gradient of the inputs given that of the sums.
class Sums {
 public:
  Sums(std::vector<int64_t> terms, int64_t activation, int64_t ce_activation, double gamma,
       std::optional<int64_t> ignore_index)
      : terms_(std::move(terms)),
        activation_(activation),
        ce_activation_(ce_activation),
        gamma_(gamma),
        ignore_index_(ignore_index) {}

  // Writes the rows [rows, items of all levels, C], a tensor; returns how many labels are invalid,
  // and the first.
  py::tuple forward(const ReadTensors& tensors, size_t levels, py::handle rows) const {
    const std::vector<Problem> problems = describe_here(Tensors(tensors.raw, levels));
    double* const to = read_rows(rows, problems);
    Invalid invalid{0, 0};
    {
      const py::gil_scoped_release release;
      invalid = sum(problems, to);
    }
    return py::make_tuple(invalid.count, invalid.first);
  }

  // Writes the gradients of the inputs, given that of the rows.
  void backward(py::handle grad_rows, const ReadTensors& tensors, const py::tuple& grads) const {
    const Tensors all(tensors.raw, grads.size());
    const std::vector<Problem> problems = describe_here(all);
    differentiate_to(all, problems, read_rows(grad_rows, problems), grads);
  }

 protected:
  std::vector<Problem> describe_here(const Tensors& all) const {
    return describe_all(all.inputs, all.targets, all.weights,
                        {terms_, activation_, ce_activation_, gamma_, ignore_index_});
  }

  static void differentiate_to(const Tensors& all, const std::vector<Problem>& problems,
                               const double* grad_rows, const py::tuple& grads) {
    RawTensors to;
    for (const py::handle grad : grads) to.push_back(read_tensor(grad));
    std::vector<View> views;
    for (size_t i = 0; i < to.size(); ++i) {
      const RawTensor& input = all.inputs[i];
      require(to[i].dtype == input.dtype && to[i].rank == input.rank &&
                  std::equal(to[i].sizes, to[i].sizes + input.rank, input.sizes),
              "wrong memory for a gradient");
      views.push_back(view_of(to[i], true, to[i].data));
    }
    const py::gil_scoped_release release;
    for (const RawTensor& grad : to)
      advise_huge_pages(grad.data, grad.numel() * grad.element_size());
    differentiate(problems, grad_rows, views);
  }

  static double* read_rows(py::handle rows, const std::vector<Problem>& problems) {
    const RawTensor raw = read_tensor(rows);
    require(
        raw.dtype == Dtype::kFloat64 && (raw.numel() == 0 || raw.is_contiguous()) &&
            raw.numel() == problems[0].rows * first_items(problems).back() * problems[0].channels,
        "wrong memory of the sums");
    return static_cast<double*>(const_cast<void*>(data_of(raw)));
  }

 private:
  std::vector<int64_t> terms_;
  int64_t activation_, ce_activation_;
  double gamma_;
  std::optional<int64_t> ignore_index_;
};

// The sums and a formula of them, of targets as users have them.
class Step : public Sums {
 public:
  // Python keeps the program alive.
  Step(const formula::Program& program, std::vector<int64_t> terms, int64_t activation,
       int64_t ce_activation, double gamma, std::optional<int64_t> ignore_index)
      : Sums(std::move(terms), activation, ce_activation, gamma, ignore_index), program_(program) {}

  // The value; its gradient in the sums, or None; how many labels are invalid, and the first. With
  // invalid labels there is no value.
  py::tuple forward(const ReadTensors& tensors, const py::tuple& arguments,
                    std::vector<double> levels, bool wants_gradient) const {
    const std::vector<Problem> problems = describe_here(arranged(tensors.raw, levels.size()));
    py::object gradient = py::none();
    double* to = nullptr;
    if (wants_gradient) {
      const auto bytes = static_cast<Py_ssize_t>(rows(problems) * sizeof(double));
      gradient = py::reinterpret_steal<py::object>(PyBytes_FromStringAndSize(nullptr, bytes));
      if (!gradient) throw py::error_already_set();
      // Its memory is aligned to 16 bytes but for a header of 32; nobody else knows it yet.
      to = reinterpret_cast<double*>(PyBytes_AS_STRING(gradient.ptr()));
    }
    const auto [value, invalid] = run(problems, arguments, std::move(levels), to);
    return py::make_tuple(value, std::move(gradient), invalid.count, invalid.first);
  }

  // The same of one input, with the gradient in a tensor [rows, items, C].
  py::tuple forward_to(const ReadTensors& tensors, const py::tuple& arguments,
                       py::handle gradient) const {
    const std::vector<Problem> problems = describe_here(arranged(tensors.raw, 1));
    const auto [value, invalid] = run(problems, arguments, {1.0}, read_rows(gradient, problems));
    return py::make_tuple(value, invalid.count, invalid.first);
  }

  // Writes the gradients of the inputs, given that of the sums for a value whose own gradient is
  // `factor`, a number in a tensor. Returns false if a tensor is no plain one: nothing is written.
  bool backward(const py::bytes& gradient, py::handle factor, const py::tuple& tensors,
                const py::tuple& grads) const {
    const auto read = read_plain(tensors), scales = read_plain(py::make_tuple(factor));
    if (!read || !scales) return false;
    const Tensors all = arranged(read->raw, grads.size());
    const std::vector<Problem> problems = describe_here(all);
    require(
        static_cast<size_t>(PyBytes_GET_SIZE(gradient.ptr())) == rows(problems) * sizeof(double),
        "wrong gradient of the sums");
    differentiate_scaled(all, problems, PyBytes_AS_STRING(gradient.ptr()), scales->raw.front(),
                         grads);
    return true;
  }

  // The same with the gradient as forward_to wrote it.
  bool backward_from(py::handle gradient, py::handle factor, const py::tuple& tensors,
                     py::handle grad) const {
    const auto read = read_plain(tensors), others = read_plain(py::make_tuple(factor, gradient));
    if (!read || !others) return false;
    const Tensors all = arranged(read->raw, 1);
    const std::vector<Problem> problems = describe_here(all);
    differentiate_scaled(all, problems, read_rows(gradient, problems), others->raw.front(),
                         py::make_tuple(grad));
    return true;
  }

 private:
  static Tensors arranged(const RawTensors& raw, size_t levels) {
    Tensors all(raw, levels);
    for (size_t i = 0; i < levels; ++i) arrange(all.inputs[i], &all.targets[i]);
    return all;
  }

  // The value, with its gradient in the sums where there is memory for it.
  std::pair<double, Invalid> run(const std::vector<Problem>& problems, const py::tuple& arguments,
                                 std::vector<double> levels, double* gradient) const {
    const std::unique_ptr<double[]> sums(new double[rows(problems)]);
    formula::Call call{sums.get(), {}, std::move(levels), 0, gradient};
    read_arguments(arguments, &call);
    const py::gil_scoped_release release;
    const Invalid invalid = sum(problems, sums.get());
    if (invalid.count == 0) program_.run(call);
    return {call.loss, invalid};
  }

  void differentiate_scaled(const Tensors& all, const std::vector<Problem>& problems,
                            const void* gradient, const RawTensor& factor,
                            const py::tuple& grads) const {
    std::vector<double> scaled(rows(problems));
    std::memcpy(scaled.data(), gradient, scaled.size() * sizeof(double));
    const double scale = number_in(factor);
    for (double& value : scaled) value *= scale;
    differentiate_to(all, problems, scaled.data(), grads);
  }

  // How many sums there are in all, which must be those of the formula.
  size_t rows(const std::vector<Problem>& problems) const {
    const formula::Sizes& sizes = program_.sizes();
    for (const Problem& problem : problems) {
      require(
          problem.rows == sizes.rows && problem.batch * problem.channels == sizes.values_per_row,
          "the formula is one of other rows");
    }
    return static_cast<size_t>(sizes.rows * sizes.values_per_row) * problems.size();
  }

  void read_arguments(const py::tuple& arguments, formula::Call* call) const {
    const std::vector<int64_t>& expected = program_.sizes().arguments;
    require(arguments.size() == expected.size(), "the formula is one of other arguments");
    for (size_t i = 0; i < expected.size(); ++i) {
      const RawTensor raw = read_tensor(arguments[i]);
      require(raw.numel() == expected[i] && raw.dtype == Dtype::kFloat64 && raw.is_contiguous(),
              "the formula is one of other arguments");
      call->arguments.push_back(static_cast<const double*>(data_of(raw)));
    }
  }

  const formula::Program& program_;
};

}  // namespace

void bind(py::module_& m) {
  using py::arg;
  py::class_<ReadTensors>(m, "ReadTensors", "Tensors, and where their numbers lie.");
  m.def("read_plain", &read_plain, arg("tensors"), "Read plain tensors; None if one is another.");
  py::class_<Kinds>(m, "Kinds", "What the tensors of a call were like: (shape, dtype) of each.")
      .def(py::init<const py::tuple&>(), arg("kinds"))
      .def("read", &Kinds::read, arg("tensors"), arg("records"),
           "Read plain tensors of these kinds; None if one is another, or learns.");
  py::class_<Sums>(m, "Sums", "The sums in one call (segloss_fast/ops/region_sums/op.py).")
      .def(py::init<std::vector<int64_t>, int64_t, int64_t, double, std::optional<int64_t>>(),
           arg("terms"), arg("activation"), arg("ce_activation"), arg("gamma"), arg("ignore_index"))
      .def("forward", &Sums::forward, arg("read"), arg("levels"), arg("rows"),
           "Write the sums; return how many labels are invalid, and the first of them.")
      .def("backward", &Sums::backward, arg("grad_rows"), arg("read"), arg("grads"),
           "Write the gradients of the inputs.");
  py::class_<Step>(m, "Step", "A loss over sums in one call (segloss_fast/ops/region_sums).")
      .def(py::init<const formula::Program&, std::vector<int64_t>, int64_t, int64_t, double,
                    std::optional<int64_t>>(),
           py::keep_alive<1, 2>(), arg("program"), arg("terms"), arg("activation"),
           arg("ce_activation"), arg("gamma"), arg("ignore_index"))
      .def("forward", &Step::forward, arg("read"), arg("arguments"), arg("levels"), arg("gradient"),
           "Return the value, its gradient in the sums or None, how many labels are invalid, and "
           "the first of them.")
      .def("backward", &Step::backward, arg("gradient"), arg("factor"), arg("tensors"),
           arg("grads"), "Write the gradients of the inputs; False if a tensor is no plain one.")
      .def("forward_to", &Step::forward_to, arg("read"), arg("arguments"), arg("gradient"),
           "Write the gradient; return the value, how many labels are invalid, and the first.")
      .def("backward_from", &Step::backward_from, arg("gradient"), arg("factor"), arg("tensors"),
           arg("grad"), "As backward, of one input.");
}

}  // namespace segloss::region_sums
