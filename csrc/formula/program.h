// A traced formula: steps over one array of numbers (segloss_fast/ops/_formula/program.py). Free
// of torch.
#pragma once

#include <cstdint>
#include <vector>

namespace segloss::formula {

constexpr int kAxes = 3;
constexpr int kOperands = 3;

// The order is that of OPERATIONS in segloss_fast/ops/_formula/program.py.
enum class Operation : int32_t {
  kCopy,
  kAdd,
  kSub,
  kMul,
  kDiv,
  kNeg,
  kAbs,
  kSign,
  kSqrt,
  kExp,
  kExpm1,
  kLog,
  kLog1p,
  kPow,
  kEq,
  kNe,
  kLt,
  kLe,
  kAnd,
  kOr,
  kNot,
  kWhere,
  kMax,
  kMin,
  kCount,
};

// Where the elements of an operand are: the first, and a stride per axis.
struct Place {
  int32_t first;
  int32_t strides[kAxes];
};

// One elementwise operation. An axis without a stride of the result is summed over.
struct Step {
  Operation operation;
  int32_t rounds;       // the result to float32?
  int32_t independent;  // elements, for interpreters that work on them side by side
  int32_t sizes[kAxes];
  Place out;
  Place operands[kOperands];
};

struct Sizes {
  std::vector<int64_t> arguments;  // elements of each
  int64_t rows, values_per_row;    // K, and B times C
  int64_t array, loss;             // elements of the array, and which of them is the value
  int64_t values;                  // steps that the value needs; the rest is for the gradient
};

// What a call reads and writes. The rows and their gradient are [K, levels, B C].
struct Call {
  const double* rows;
  std::vector<const double*> arguments;
  std::vector<double> levels;  // the weight of each
  double loss = 0;             // the weighted sum of the levels' values, set by run
  double* gradient = nullptr;  // none: not wanted
};

class Program {
 public:
  // Throws std::invalid_argument where a step would leave the array.
  Program(const std::vector<int32_t>& steps, std::vector<double> constants, Sizes sizes);

  const Sizes& sizes() const { return sizes_; }
  void run(Call& call) const;

 private:
  int64_t first_row() const { return first_row_; }
  void check(const Step& step) const;

  std::vector<Step> steps_;
  std::vector<double> constants_;
  Sizes sizes_;
  int64_t first_row_;
};

}  // namespace segloss::formula
