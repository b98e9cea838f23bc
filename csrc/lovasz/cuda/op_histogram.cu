// Counts by bin, their scan, and the gradient by the table that it writes.
#include <optional>
#include <tuple>
#include <vector>

#include "allocate.h"
#include "cuda_library.h"
#include "lovasz/cuda/steps.h"
#include "lovasz/schemas.h"

namespace segloss::lovasz::cuda {
namespace {

// How many tiles of each image are counted at once: what packed counters can count, and what three
// quarters of a megabyte and of a percent of the input hold statistics of.
int64_t slab_tiles_of(const Problem& problem, const Tensor& input, bool statistics) {
  int64_t tiles = std::min(problem.image_tiles(), kMostTiles);
  if (!statistics) return tiles;
  const int64_t memory = 768 * 1024 + input.numel() * input.element_size() * 3 / 400;
  return std::clamp<int64_t>(memory / statistics_bytes(problem), 1, tiles);
}

void check_counts(const Tensor& counts, const Tensor& rows, const Bins& bins) {
  STD_TORCH_CHECK(counts.dim() == 5 && counts.size(0) == 2 && counts.size(3) == 2 &&
                      counts.size(4) == bins.count && counts.scalar_type() == ScalarType::Long,
                  "lovasz: counts must be int64 [2, I, C, 2, K]");
  STD_TORCH_CHECK(rows.dim() == 3 && rows.size(0) == 2 && rows.size(1) == counts.size(1) &&
                      rows.size(2) == counts.size(2) && rows.scalar_type() == ScalarType::Double,
                  "lovasz: rows must be float64 [2, I, C]");
  check_device(rows, counts);
}

// Returns counts int64 [2, I, C, 2, K], rows float64 [2, I, C] and invalid float64 [2]. Offsets
// have 8 bits here: of the 16 of their sum's unit the lower 8 are taken for their middle.
std::tuple<Tensor, Tensor, Tensor> count(Tensor input, Tensor target, int64_t activation,
                                         int64_t octaves, int64_t bits, bool per_image,
                                         std::optional<int64_t> ignore_index, bool cross_entropy) {
  CountLaunch launch{};
  launch.bins = describe_bins(activation, octaves, bits);
  launch.problem = describe(
      input, target, {activation, ignore_index, cross_entropy, per_image ? input.size(0) : 1});
  const Problem& problem = launch.problem;
  const DeviceScope device(input.get_device_index());
  const std::vector<int64_t> shape{problem.images, problem.channels, 2, launch.bins.count};
  const auto empty = [&](std::vector<int64_t> size, ScalarType type) {
    return allocate_at(input, size, type);
  };
  const Tensor counts = empty({2, shape[0], shape[1], shape[2], shape[3]}, ScalarType::Long);
  const Tensor rows = empty({2, shape[0], shape[1]}, ScalarType::Double);
  const Tensor invalid = empty({2}, ScalarType::Double);
  if (input.numel() == 0) {
    for (const Tensor& tensor : {counts, rows, invalid}) clear(tensor, device.stream());
    return {counts, rows, invalid};
  }
  const bool statistics = needs_statistics(problem, counts_logits(problem));
  const int64_t slab = slab_tiles_of(problem, input, statistics);
  const int64_t slabs = divide_up(problem.image_tiles(), slab);
  cut(launch, true, slab);
  const int64_t counters = counts.numel() / 2;
  Scratch scratch;
  const auto packed = scratch.ask<unsigned long long>(counters);
  const Parts parts(scratch, launch, slabs, statistics ? slab * statistics_bytes(problem) : 0);
  scratch.allocate(input);
  launch.packed = scratch.at(packed);
  launch.partial = parts.pointers(scratch);
  if (statistics) launch.statistics = scratch.at(parts.statistics);
  clear(launch.packed, counters * int64_t(sizeof(*launch.packed)), device.stream());
  int64_t unpacked = 0;  // tiles
  for (int64_t i = 0; i < slabs; ++i) {
    launch.slab_begin = i * slab;
    launch.slab_end = std::min(launch.slab_begin + slab, problem.image_tiles());
    launch.first_chunk = i * problem.images * launch.chunks;
    if (statistics) find_statistics(launch, scratch.at(parts.statistics), device.stream());
    launch_count(launch, device.stream());
    const bool fits = launch.slab_end - unpacked + slab <= kMostTiles;
    if (fits && launch.slab_end < problem.image_tiles()) continue;
    launch_unpack(
        {launch.packed, static_cast<int64_t*>(counts.mutable_data_ptr()), counters, unpacked > 0},
        device.stream());
    unpacked = launch.slab_end;
  }
  finish(launch, slabs, rows, invalid, device.stream());
  return {counts, rows, invalid};
}

// Returns loss float64 [I, C] and table [I, C, 2, K].
std::tuple<Tensor, Tensor> scan(Tensor counts, Tensor rows, int64_t activation, int64_t octaves,
                                int64_t bits, bool double_table) {
  ScanLaunch launch{};
  launch.bins = describe_bins(activation, octaves, bits);
  check_counts(counts, rows, launch.bins);
  const DeviceScope device(counts.get_device_index());
  counts = torch::stable::contiguous(counts);
  rows = torch::stable::contiguous(rows);
  const int64_t images = counts.size(1), classes = counts.size(2);
  const Tensor loss = allocate_at(rows, {images, classes}, ScalarType::Double);
  const Tensor table = allocate_at(rows, {images, classes, 2, launch.bins.count},
                                   double_table ? ScalarType::Double : ScalarType::Float);
  launch.rows = images * classes;
  launch.counts = static_cast<const int64_t*>(counts.const_data_ptr());
  launch.flagged = static_cast<const double*>(rows.const_data_ptr());
  const Tensor parts = allocate_at(rows, {launch.rows, kScanPieces}, ScalarType::Double);
  launch.parts = doubles_of(parts);
  launch.loss = doubles_of(loss);
  launch.table = table.mutable_data_ptr();
  if (launch.rows > 0) launch_scan(launch, double_table, device.stream());
  return {loss, table};
}

Tensor backward(Tensor table, Tensor grad_loss, std::optional<Tensor> grad_ce, Tensor input,
                Tensor target, int64_t activation, int64_t octaves, int64_t bits,
                std::optional<int64_t> ignore_index) {
  BackwardLaunch launch{};
  launch.bins = describe_bins(activation, octaves, bits);
  STD_TORCH_CHECK(table.dim() == 4, "lovasz: table must be [I, C, 2, K]");
  launch.problem = describe(input, target, {activation, ignore_index, false, table.size(0)});
  STD_TORCH_CHECK(
      table.size(1) == input.size(1) && table.size(2) == 2 && table.size(3) == launch.bins.count,
      "lovasz: table must be [I, C, 2, K]");
  check_device(table, input);
  const DeviceScope device(input.get_device_index());
  const bool is_double = launch.problem.input.dtype == Dtype::kFloat64;
  const Tensor typed = torch::stable::contiguous(
      torch::stable::to(table, is_double ? ScalarType::Double : ScalarType::Float));
  launch.table = typed.const_data_ptr();
  return differentiate(launch, grad_loss, grad_ce, input, device.stream());
}

}  // namespace
}  // namespace segloss::lovasz::cuda

SEGLOSS_CUDA_SCHEMAS(segloss::lovasz::kHistogramSchemas)

STABLE_TORCH_LIBRARY_IMPL(SEGLOSS_CUDA_LIBRARY, SEGLOSS_CUDA_KEY, m) {
  m.impl("_lovasz_count", TORCH_BOX(&segloss::lovasz::cuda::count));
  m.impl("_lovasz_scan", TORCH_BOX(&segloss::lovasz::cuda::scan));
  m.impl("_lovasz_backward", TORCH_BOX(&segloss::lovasz::cuda::backward));
}
