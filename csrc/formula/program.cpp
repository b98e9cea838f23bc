#include "formula/program.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace segloss::formula {
namespace {

constexpr int64_t kMostNumbers = int64_t(1) << 28;  // of an array

// Calls f for all elements of a step, one after another.
template <class F>
void each(const Step& step, double* array, const F& f) {
  const auto at = [&](const Place& place, int64_t i, int64_t j, int64_t k) {
    return array + place.first + i * place.strides[0] + j * place.strides[1] + k * place.strides[2];
  };
  for (int64_t i = 0; i < step.sizes[0]; ++i) {
    for (int64_t j = 0; j < step.sizes[1]; ++j) {
      for (int64_t k = 0; k < step.sizes[2]; ++k) {
        const double value = f(*at(step.operands[0], i, j, k), *at(step.operands[1], i, j, k),
                               *at(step.operands[2], i, j, k));
        *at(step.out, i, j, k) = step.rounds ? static_cast<float>(value) : value;
      }
    }
  }
}

// As torch's, which hand a NaN on.
double larger(double a, double b) { return a > b || std::isnan(a) ? a : b; }
double smaller(double a, double b) { return a < b || std::isnan(a) ? a : b; }

void run_step(const Step& step, double* array) {
  const auto of_one = [&](auto f) {
    each(step, array, [&](double a, double, double) { return f(a); });
  };
  const auto of_two = [&](auto f) {
    each(step, array, [&](double a, double b, double) { return static_cast<double>(f(a, b)); });
  };
  switch (step.operation) {
    case Operation::kCopy:
      return of_one([](double a) { return a; });
    case Operation::kAdd:
      return of_two([](double a, double b) { return a + b; });
    case Operation::kSub:
      return of_two([](double a, double b) { return a - b; });
    case Operation::kMul:
      return of_two([](double a, double b) { return a * b; });
    case Operation::kDiv:
      return of_two([](double a, double b) { return a / b; });
    case Operation::kNeg:
      return of_one([](double a) { return -a; });
    case Operation::kAbs:
      return of_one([](double a) { return std::fabs(a); });
    case Operation::kSign:  // of a NaN 0, as torch's
      return of_one([](double a) { return static_cast<double>((a > 0) - (a < 0)); });
    case Operation::kSqrt:
      return of_one([](double a) { return std::sqrt(a); });
    case Operation::kExp:
      return of_one([](double a) { return std::exp(a); });
    case Operation::kExpm1:
      return of_one([](double a) { return std::expm1(a); });
    case Operation::kLog:
      return of_one([](double a) { return std::log(a); });
    case Operation::kLog1p:
      return of_one([](double a) { return std::log1p(a); });
    case Operation::kPow:
      return of_two([](double a, double b) { return std::pow(a, b); });
    case Operation::kEq:
      return of_two([](double a, double b) { return a == b; });
    case Operation::kNe:
      return of_two([](double a, double b) { return a != b; });
    case Operation::kLt:
      return of_two([](double a, double b) { return a < b; });
    case Operation::kLe:
      return of_two([](double a, double b) { return a <= b; });
    case Operation::kAnd:
      return of_two([](double a, double b) { return a != 0 && b != 0; });
    case Operation::kOr:
      return of_two([](double a, double b) { return a != 0 || b != 0; });
    case Operation::kNot:
      return of_one([](double a) { return a == 0 ? 1.0 : 0.0; });
    case Operation::kWhere:
      return each(step, array, [](double a, double b, double c) { return a != 0 ? b : c; });
    case Operation::kMax:
      return of_two(larger);
    case Operation::kMin:
      return of_two(smaller);
    case Operation::kCount:
      break;
  }
}

}  // namespace

Program::Program(const std::vector<int32_t>& steps, std::vector<double> constants, Sizes sizes)
    : constants_(std::move(constants)), sizes_(std::move(sizes)) {
  constexpr size_t kWidth = sizeof(Step) / sizeof(int32_t);
  if (steps.size() % kWidth != 0) throw std::invalid_argument("formula: a part of a step");
  steps_.resize(steps.size() / kWidth);
  if (!steps.empty()) std::memcpy(steps_.data(), steps.data(), steps.size() * sizeof(int32_t));
  first_row_ = static_cast<int64_t>(constants_.size());
  bool fits = sizes_.array <= kMostNumbers;
  for (const int64_t argument : sizes_.arguments) {
    fits = fits && argument >= 0 && argument <= sizes_.array;
    if (fits) first_row_ += argument;
  }
  fits = fits && sizes_.rows >= 0 && sizes_.values_per_row >= 0 && sizes_.rows <= sizes_.array &&
         sizes_.values_per_row <= sizes_.array;
  fits = fits && first_row_ + 2 * sizes_.rows * sizes_.values_per_row <= sizes_.array;
  fits = fits && sizes_.loss >= 0 && sizes_.loss < sizes_.array && sizes_.values >= 0 &&
         sizes_.values <= static_cast<int64_t>(steps_.size());
  if (!fits) throw std::invalid_argument("formula: sizes that do not fit");
  for (const Step& step : steps_) check(step);
}

void Program::check(const Step& step) const {
  const auto inside = [&](const Place& place, int64_t least) {
    int64_t last = place.first;
    for (int axis = 0; axis < kAxes; ++axis) {
      if (place.strides[axis] < 0) return false;
      last += static_cast<int64_t>(place.strides[axis]) * (step.sizes[axis] - 1);
      if (last >= sizes_.array) return false;  // before the sum is too large for its type
    }
    return place.first >= least;
  };
  bool fits = step.operation >= Operation::kCopy && step.operation < Operation::kCount;
  for (const int32_t size : step.sizes) fits = fits && size > 0;
  // Constants and arguments are never written: they are the same for all levels.
  fits = fits && inside(step.out, first_row_);
  for (const Place& operand : step.operands) fits = fits && inside(operand, 0);
  if (!fits) throw std::invalid_argument("formula: a step outside of the array");
}

void Program::run(Call& call) const {
  std::vector<double> array(sizes_.array);
  double* next = std::copy(constants_.begin(), constants_.end(), array.data());
  for (size_t i = 0; i < call.arguments.size(); ++i) {
    next = std::copy_n(call.arguments[i], sizes_.arguments[i], next);
  }
  const int64_t width = sizes_.values_per_row;
  const int64_t levels = static_cast<int64_t>(call.levels.size());
  double* const gradient = next + sizes_.rows * width;
  const int64_t count = call.gradient == nullptr ? sizes_.values : steps_.size();
  call.loss = 0;
  for (int64_t level = 0; level < levels; ++level) {
    for (int64_t row = 0; row < sizes_.rows; ++row) {
      std::copy_n(call.rows + (row * levels + level) * width, width, next + row * width);
    }
    for (int64_t i = 0; i < count; ++i) run_step(steps_[i], array.data());
    const double weight = call.levels[level];
    call.loss += weight * array[sizes_.loss];
    if (call.gradient == nullptr) continue;
    for (int64_t row = 0; row < sizes_.rows; ++row) {
      double* const to = call.gradient + (row * levels + level) * width;
      for (int64_t i = 0; i < width; ++i) to[i] = weight * gradient[row * width + i];
    }
  }
}

}  // namespace segloss::formula
