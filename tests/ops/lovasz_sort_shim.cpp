// Stands in for CUB on the CPU.
#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "lovasz/cuda/sort.h"

namespace segloss::lovasz::cuda {

// As CUB, sorts to either piece of memory: to the second where the number of passes is odd.
int sort_pairs(const torch::stable::Tensor&, unsigned long long* const (&keys)[2],
               uint32_t* const (&values)[2], int64_t count, int bits, cudaStream_t) {
  const unsigned long long mask = bits < 64 ? (1ull << bits) - 1 : ~0ull;
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return (keys[0][a] & mask) < (keys[0][b] & mask); });
  for (int64_t i = 0; i < count; ++i) {
    keys[1][i] = keys[0][order[static_cast<size_t>(i)]];
    values[1][i] = values[0][order[static_cast<size_t>(i)]];
  }
  if ((bits + 7) / 8 % 2 == 1) return 1;
  for (int64_t i = 0; i < count; ++i) {
    std::swap(keys[0][i], keys[1][i]);
    std::swap(values[0][i], values[1][i]);
  }
  return 0;
}

void scan_sum(const torch::stable::Tensor&, uint32_t* flags, int64_t count, cudaStream_t) {
  uint32_t sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += std::exchange(flags[i], sum);
}

void scan_max(const torch::stable::Tensor&, uint32_t* places, int64_t count, cudaStream_t) {
  for (int64_t i = 1; i < count; ++i) places[i] = std::max(places[i], places[i - 1]);
}

}  // namespace segloss::lovasz::cuda
