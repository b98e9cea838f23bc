// The CUDA operators: checks what would corrupt memory, describes the tensors to the kernels, and
// spreads chunks of voxels over the device. The chunks depend on the shapes and on the number of
// multiprocessors alone and their sums are added in order: the same bits from every run.
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "allocate.h"
#include "cuda.cuh"
#include "cuda_library.h"
#include "region_sums/cuda/describe.h"
#include "region_sums/cuda/launch.h"
#include "region_sums/cuda/reduce.cuh"
#include "region_sums/schemas.h"
#include "scratch.cuh"

namespace segloss::region_sums::cuda {
namespace {

// Chooses the largest tile that leaves room for several blocks on a multiprocessor; rows of 32
// voxels, which fast loads need, are worth fewer blocks.
void choose_tile(Launch& launch, size_t (*shared_bytes)(const Launch&, bool), bool is_double) {
  constexpr size_t kRoomy = 40 * 1024, kTight = 72 * 1024;
  const size_t limit = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  for (launch.tile_voxels = kThreads; launch.tile_voxels > 1; launch.tile_voxels /= 2) {
    const size_t bytes = shared_bytes(launch, is_double);
    if (bytes <= kRoomy || (launch.tile_voxels == 32 && bytes <= std::min(kTight, limit))) return;
  }
  launch.tile_voxels = 2;
  STD_TORCH_CHECK(shared_bytes(launch, is_double) <= limit, "region_sums: ", launch.channels,
                  " classes do not fit into the shared memory of this GPU");
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Cuts every item into chunks, about as many in all as asked for. Returns how many there are.
int64_t cut(std::vector<Launch>& launches, int64_t wanted) {
  int64_t tiles = 0;
  const auto tiles_of = [](const Launch& launch, const Level& level) {
    return divide_up(level.voxels, launch.tile_voxels);
  };
  for (const Launch& launch : launches) {
    for (int i = 0; i < launch.levels; ++i) {
      tiles += launch.level[i].items * tiles_of(launch, launch.level[i]);
    }
  }
  const int64_t size = std::max<int64_t>(divide_up(tiles, std::max<int64_t>(wanted, 1)), 1);
  int64_t next = 0;
  for (Launch& launch : launches) {
    for (int i = 0; i < launch.levels; ++i) {
      Level& level = launch.level[i];
      level.chunk_tiles = size;
      level.item_chunks = divide_up(tiles_of(launch, level), size);
      level.first_chunk = next;
      next += level.items * level.item_chunks;
    }
  }
  return next;
}

int64_t chunks_of(const Launch& launch) {
  int64_t count = 0;
  for (int i = 0; i < launch.levels; ++i) {
    count += launch.level[i].items * launch.level[i].item_chunks;
  }
  return count;
}

constexpr int64_t kBlocksPerMultiprocessor = 8;
constexpr int64_t kBackwardBlocks = 64;  // which leave nothing: the last ones to begin are few

// Rounds down to what the device runs at once: in a round that is not full the rest of it idles.
int64_t whole_rounds(int64_t wanted, const Launch& launch, bool is_double) {
  constexpr int64_t kReserved = 1024;  // shared memory of a block besides
  const int64_t multiprocessors = device_attribute(cudaDevAttrMultiProcessorCount);
  const int64_t memory = device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) /
                         (int64_t(forward_shared_bytes(launch, is_double)) + kReserved);
  const int64_t at_once = std::min<int64_t>(memory, forward_blocks(launch, is_double));
  for (const int64_t round : {multiprocessors * std::max<int64_t>(at_once, 1), multiprocessors}) {
    if (wanted >= round) return wanted - wanted % round;
  }
  return wanted;
}

// More chunks keep more of the device busy, but their sums take memory: half a megabyte and half a
// percent of the input at most.
int64_t wanted_chunks(const Call& call, const Launch& launch) {
  const int64_t blocks =
      kBlocksPerMultiprocessor * device_attribute(cudaDevAttrMultiProcessorCount);
  const int64_t memory = 512 * 1024 + call.input_bytes / 200;
  const int64_t wanted =
      std::min(blocks, memory / (int64_t(sizeof(double)) * launch.rows * launch.channels));
  return whole_rounds(wanted, launch, call.is_double);
}

void reduce(const std::vector<Launch>& launches, int64_t chunks, const Tensor& rows,
            const Tensor& invalid, cudaStream_t stream) {
  for (size_t n = 0; n < launches.size(); ++n) {
    const Launch& launch = launches[n];
    Reduction reduction{};
    reduction.levels = launch.levels;
    int64_t items = 0;
    for (int i = 0; i < launch.levels; ++i) {
      const Level& level = launch.level[i];
      reduction.level[i] = {level.first_item, level.first_chunk, level.item_chunks};
      items += level.items;
    }
    reduction.first_item = launch.level[0].first_item;
    reduction.items = launch.items;
    reduction.chunks = chunks;
    reduction.channels = launch.channels;
    reduction.rows = launch.rows;
    reduction.partial = launch.partial;
    reduction.invalid = launch.invalid;
    reduction.sums = static_cast<double*>(rows.mutable_data_ptr());
    reduction.invalid_total = n == 0 ? static_cast<double*>(invalid.mutable_data_ptr()) : nullptr;
    const int64_t blocks =
        std::max<int64_t>(items * launch.rows * divide_up(launch.channels, kReduceLanes), 1);
    segloss::launch({static_cast<unsigned>(blocks), kReduceThreads,
                     2 * kReduceThreads * sizeof(double), stream},
                    reduce_kernel, reduction);
  }
}

std::tuple<Tensor, Tensor> forward(std::vector<Tensor> inputs, std::vector<Tensor> targets,
                                   std::vector<Tensor> weights, std::vector<int64_t> terms,
                                   int64_t activation, int64_t ce_activation, double gamma,
                                   std::optional<int64_t> ignore_index) {
  Call call = describe_call(inputs, targets, weights,
                            {terms, activation, ce_activation, gamma, ignore_index});
  const DeviceScope device(inputs[0].get_device_index());
  Launch& first = call.launches[0];
  for (Launch& launch : call.launches) {
    const int64_t slots = int64_t(launch.rows) * std::max(launch.channels, kThreads);
    launch.shared_slots =
        launch.channels <= kThreads || slots * int64_t(sizeof(double)) <= 16 * 1024;
    choose_tile(launch, forward_shared_bytes, call.is_double);
  }
  const int64_t chunks = cut(call.launches, wanted_chunks(call, first));
  const auto empty = [&](std::vector<int64_t> size) {
    return allocate_at(inputs[0], size, ScalarType::Double);
  };
  Scratch scratch;
  const auto partial = scratch.ask<double>(chunks * first.rows * first.channels);
  const auto found = scratch.ask<double2>(chunks);
  scratch.allocate(inputs[0]);
  const Tensor rows = empty({first.rows, first.items, first.channels});
  const Tensor invalid = empty({2});
  for (Launch& launch : call.launches) {
    launch.partial = scratch.at(partial);
    launch.invalid = scratch.at(found);
    const int64_t blocks = chunks_of(launch);
    if (blocks > 0) launch_forward(launch, call.is_double, blocks, device.stream());
  }
  reduce(call.launches, chunks, rows, invalid, device.stream());
  return {rows, invalid};
}

std::vector<Tensor> backward(Tensor grad_rows, std::vector<Tensor> inputs,
                             std::vector<Tensor> targets, std::vector<Tensor> weights,
                             std::vector<int64_t> terms, int64_t activation, int64_t ce_activation,
                             double gamma, std::optional<int64_t> ignore_index) {
  Call call = describe_call(inputs, targets, weights,
                            {terms, activation, ce_activation, gamma, ignore_index});
  const DeviceScope device(inputs[0].get_device_index());
  const Launch& first = call.launches[0];
  STD_TORCH_CHECK(grad_rows.dim() == 3 && grad_rows.size(0) == first.rows &&
                      grad_rows.size(1) == first.items && grad_rows.size(2) == first.channels,
                  "region_sums: wrong shape of grad_rows");
  STD_TORCH_CHECK(grad_rows.get_device_index() == inputs[0].get_device_index(),
                  "region_sums: grad_rows lies on another device");
  const Tensor coefficients = torch::stable::contiguous(
      torch::stable::to(grad_rows, call.is_double ? ScalarType::Double : ScalarType::Float));
  std::vector<Tensor> grads;
  for (size_t i = 0; i < inputs.size(); ++i) {
    grads.push_back(allocate_as(inputs[i]));
    call.launches[i / kMaxLevels].level[i % kMaxLevels].grad =
        view_of(grads[i], true, grads[i].mutable_data_ptr());
  }
  for (Launch& launch : call.launches) {
    launch.grad_rows = coefficients.const_data_ptr();
    choose_tile(launch, backward_shared_bytes, call.is_double);
  }
  cut(call.launches, kBackwardBlocks * device_attribute(cudaDevAttrMultiProcessorCount));
  for (const Launch& launch : call.launches) {
    const int64_t blocks = chunks_of(launch);
    if (blocks > 0) launch_backward(launch, call.is_double, blocks, device.stream());
  }
  return grads;
}

}  // namespace
}  // namespace segloss::region_sums::cuda

SEGLOSS_CUDA_SCHEMAS(segloss::region_sums::kSchemas)

STABLE_TORCH_LIBRARY_IMPL(SEGLOSS_CUDA_LIBRARY, SEGLOSS_CUDA_KEY, m) {
  m.impl("_region_sums", TORCH_BOX(&segloss::region_sums::cuda::forward));
  m.impl("_region_sums_backward", TORCH_BOX(&segloss::region_sums::cuda::backward));
}
