// No operator of torch: a call of one costs more than a formula. Tensors come as addresses, which
// segloss_fast/ops/_formula/evaluation.py has checked.
#include "formula/binding.h"

#include <pybind11/stl.h>

#include "formula/program.h"

namespace segloss::formula {
namespace {

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

double run(const Program& program, uintptr_t rows, const std::vector<uintptr_t>& arguments,
           std::vector<double> levels, uintptr_t gradient) {
  if (arguments.size() != program.sizes().arguments.size()) {
    throw std::invalid_argument("formula: another number of arguments");
  }
  Call call{pointer<const double>(rows), {}, std::move(levels), 0, pointer<double>(gradient)};
  for (const uintptr_t argument : arguments) {
    call.arguments.push_back(pointer<const double>(argument));
  }
  program.run(call);
  return call.loss;
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  pybind11::class_<Program>(m, "Formula", "A traced formula (segloss_fast/ops/_formula).")
      .def(pybind11::init([](const std::vector<int32_t>& steps, std::vector<double> constants,
                             std::vector<int64_t> arguments, int64_t rows, int64_t values_per_row,
                             int64_t array, int64_t loss, int64_t values) {
             return Program(steps, std::move(constants),
                            Sizes{std::move(arguments), rows, values_per_row, array, loss, values});
           }),
           arg("steps"), arg("constants"), arg("arguments"), arg("rows"), arg("values_per_row"),
           arg("array"), arg("loss"), arg("values"))
      .def("run", &run, arg("rows"), arg("arguments"), arg("levels"), arg("gradient"),
           "Return the value, and write the gradient where its address is not 0.");
}

}  // namespace segloss::formula
