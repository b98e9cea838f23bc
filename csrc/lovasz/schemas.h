// The schemas of the raw operators, for all devices.
#pragma once

namespace segloss::lovasz {

inline constexpr const char* kHistogramSchemas[] = {
    "_lovasz_count(Tensor input, Tensor target, int activation, int octaves, int bits, "
    "bool per_image, int? ignore_index, bool cross_entropy) -> (Tensor, Tensor, Tensor)",
    "_lovasz_scan(Tensor counts, Tensor rows, int activation, int octaves, int bits, "
    "bool double_table) -> (Tensor, Tensor)",
    "_lovasz_backward(Tensor table, Tensor grad_loss, Tensor? grad_ce, Tensor input, "
    "Tensor target, int activation, int octaves, int bits, int? ignore_index) -> Tensor"};

inline constexpr const char* kSortSchemas[] = {
    "_lovasz_sort(Tensor input, Tensor target, int activation, bool per_image, "
    "int? ignore_index, bool cross_entropy, bool wants_gradient) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    "_lovasz_sort_backward(Tensor g, Tensor grad_loss, Tensor? grad_ce, Tensor input, "
    "Tensor target, int activation, int? ignore_index) -> Tensor"};

}  // namespace segloss::lovasz
