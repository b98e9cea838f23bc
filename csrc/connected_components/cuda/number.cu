// Roots are the first voxels of their components, so that they are numbered in their own order:
// counted by block, the counts added up by one block a mask, and numbered by the blocks again.
#include "connected_components/cuda/words.cuh"
#include "cuda.cuh"

namespace segloss::connected_components::cuda {
namespace {

// The sum of the threads before, and of all.
struct Sums {
  int before;
  int all;
};

SL_DEVICE Sums sum_up(int value) {
  __shared__ int warps[kWarps];
  const int lane = int(threadIdx.x) % kLanes, warp = int(threadIdx.x) / kLanes;
  int sum = value;
#pragma unroll
  for (int step = 1; step < kLanes; step *= 2) {
    const int other = __shfl_up_sync(kAll, sum, unsigned(step));
    sum += lane >= step ? other : 0;
  }
  __syncthreads();  // all have read what was there before
  if (lane == kLanes - 1) warps[warp] = sum;
  __syncthreads();
  Sums sums{sum - value, 0};
  for (int i = 0; i < kWarps; ++i) {
    sums.before += i < warp ? warps[i] : 0;
    sums.all += warps[i];
  }
  return sums;
}

SL_DEVICE int roots_of(const Word& word, unsigned pieces, const int32_t* parent) {
  int roots = 0;
  for (; pieces != 0; pieces &= pieces - 1) {
    const int at = word.first + lowest(pieces);
    roots += parent[at] == at;
  }
  return roots;
}

__global__ void __launch_bounds__(kThreads) flatten_kernel(const __grid_constant__ Launch launch) {
  int64_t mask = 0;
  int index = 0, roots = 0;
  if (find_word(launch, &mask, &index)) {
    const Word word(launch, mask, index);
    int32_t* const parent = word.parents(launch);
    unsigned pieces = word.pieces(launch, word.bits(launch));
    for (; pieces != 0; pieces &= pieces - 1) {
      const int at = word.first + lowest(pieces);
      int root = parent[at];
      if (root == at) {
        ++roots;
        continue;
      }
      for (int above = parent[root]; above != root; above = parent[root]) root = above;
      parent[at] = root;
    }
  }
  const Sums sums = sum_up(roots);
  if (threadIdx.x == 0) launch.roots[blockIdx.x] = sums.all;
}

__global__ void __launch_bounds__(kThreads) scan_kernel(const __grid_constant__ Launch launch) {
  int32_t* const roots = launch.roots + int64_t(blockIdx.x) * launch.mask_blocks;
  int before = 0;
  for (int begin = 0; begin < launch.mask_blocks; begin += kThreads) {
    const int i = begin + int(threadIdx.x);
    const Sums sums = sum_up(i < launch.mask_blocks ? roots[i] : 0);
    if (i < launch.mask_blocks) roots[i] = before + sums.before;
    before += sums.all;
  }
  if (threadIdx.x == 0) launch.problem.count[blockIdx.x] = before;
}

__global__ void __launch_bounds__(kThreads) number_kernel(const __grid_constant__ Launch launch) {
  int64_t mask = 0;
  int index = 0;
  const bool exists = find_word(launch, &mask, &index);
  const Word word(launch, mask, index);
  int32_t* const parent = word.parents(launch);
  unsigned pieces = exists ? word.pieces(launch, word.bits(launch)) : 0;
  int number = launch.roots[blockIdx.x] + sum_up(roots_of(word, pieces, parent)).before;
  for (; pieces != 0; pieces &= pieces - 1) {
    const int at = word.first + lowest(pieces);
    if (parent[at] == at) parent[at] = ~++number;
  }
}

template <class Element>
SL_DEVICE int32_t as_int32(Element value, bool is_signed) {
  if (sizeof(Element) == 1 && is_signed) return int8_t(value);
  if (sizeof(Element) == 2 && is_signed) return int16_t(value);
  return int32_t(value);
}

__global__ void __launch_bounds__(kThreads) values_kernel(const __grid_constant__ Launch launch) {
  int64_t mask = 0;
  int index = 0;
  if (!find_word(launch, &mask, &index)) return;
  const Problem& problem = launch.problem;
  const Word word(launch, mask, index);
  const int32_t* const parent = word.parents(launch);
  unsigned pieces = word.pieces(launch, word.bits(launch));
  for (; pieces != 0; pieces &= pieces - 1) {
    const int x = lowest(pieces), above = parent[word.first + x];
    if (above >= 0) continue;
    const int64_t at = word.offset(problem) + (word.in_row * kLanes + x) * problem.stride[2];
    visit_elements(problem, [&](auto* data) {
      problem.value[mask * problem.most + ~above - 1] = as_int32(data[at], problem.is_signed);
    });
  }
}

// A warp writes eight words. Other warps may have written a root's label already, which is its
// number; before that ~number stands there. Only a word's own warp reads its other pieces.
__global__ void __launch_bounds__(kThreads) write_kernel(const __grid_constant__ Launch launch) {
  const int lane = int(threadIdx.x) % kLanes;
  const int groups = (launch.mask_words + kWordsInFlight - 1) / kWordsInFlight;
  const int64_t group = int64_t(blockIdx.x) * kWarps + threadIdx.x / kLanes;
  const int64_t mask = group / groups;
  if (mask >= launch.problem.masks) return;
  const int begin = int(group - mask * groups) * kWordsInFlight;
  int number[kWordsInFlight];
#pragma unroll
  for (int k = 0; k < kWordsInFlight; ++k) {
    number[k] = 0;
    if (begin + k >= launch.mask_words) continue;
    const Word word(launch, mask, begin + k);
    const unsigned bits = word.bits(launch);
    if ((bits >> lane & 1) == 0) continue;
    const int32_t* const parent = word.parents(launch);
    const int above = parent[word.first + highest(word.pieces(launch, bits) & up_to(lane))];
    const int found = above < 0 ? above : parent[above];
    number[k] = found < 0 ? ~found : found;
  }
  __syncwarp();  // all have read before any writes
#pragma unroll
  for (int k = 0; k < kWordsInFlight; ++k) {
    if (begin + k >= launch.mask_words) break;
    const Word word(launch, mask, begin + k);
    if (word.in_row * kLanes + lane >= int(launch.problem.size[2])) continue;
    word.parents(launch)[word.first + lane] = number[k];
  }
}

}  // namespace

void launch_number(const Launch& launch, cudaStream_t stream) {
  const auto blocks = unsigned(launch.problem.masks * launch.mask_blocks);
  segloss::launch({blocks, kThreads, 0, stream}, flatten_kernel, launch);
  segloss::launch({unsigned(launch.problem.masks), kThreads, 0, stream}, scan_kernel, launch);
  segloss::launch({blocks, kThreads, 0, stream}, number_kernel, launch);
}

void launch_values(const Launch& launch, cudaStream_t stream) {
  const auto blocks = unsigned(launch.problem.masks * launch.mask_blocks);
  segloss::launch({blocks, kThreads, 0, stream}, values_kernel, launch);
}

void launch_write(const Launch& launch, cudaStream_t stream) {
  const int64_t groups = (launch.mask_words + kWordsInFlight - 1) / kWordsInFlight;
  const auto blocks = unsigned((launch.problem.masks * groups + kWarps - 1) / kWarps);
  segloss::launch({blocks, kThreads, 0, stream}, write_kernel, launch);
}

}  // namespace segloss::connected_components::cuda
