// The passes of nearest_component along the other axes.
#include "distance_transform/cuda/lines.cuh"

namespace segloss::distance_transform::cuda {

size_t nearest_staged_bytes(int64_t size, bool keys) {
  return shared_bytes(size, keys ? sizeof(Keys::Value) : sizeof(Pairs::Value));
}

void launch_nearest_lines(const LinePass& pass, bool staged, cudaStream_t stream) {
  if (pass.nearest.bits > 0) return launch_way<Keys>(pass, staged, stream);
  launch_way<Pairs>(pass, staged, stream);
}

}  // namespace segloss::distance_transform::cuda
