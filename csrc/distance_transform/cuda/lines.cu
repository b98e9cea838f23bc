// The passes of distances along the other axes.
#include "distance_transform/cuda/lines.cuh"

namespace segloss::distance_transform::cuda {
namespace {

template <class In>
void launch_from(const LinePass& pass, bool staged, cudaStream_t stream) {
  if (pass.finish.two_sided) return launch_way<Distances<In, true>>(pass, staged, stream);
  launch_way<Distances<In, false>>(pass, staged, stream);
}

}  // namespace

size_t staged_bytes(int64_t size) { return shared_bytes(size, sizeof(float)); }

void launch_lines(const LinePass& pass, Number in, bool staged, cudaStream_t stream) {
  if (in == Number::kInt16) return launch_from<int16_t>(pass, staged, stream);
  if (in == Number::kInt32) return launch_from<int32_t>(pass, staged, stream);
  launch_from<float>(pass, staged, stream);
}

}  // namespace segloss::distance_transform::cuda
