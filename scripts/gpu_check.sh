#!/usr/bin/env bash
# Builds the native libraries, runs the tests that need a GPU, then its benchmarks: all that a bare
# machine with a GPU has to do, in one call.
#
#   scripts/gpu_check.sh [FOLDER]     results: FOLDER (default: gpu_results)
#
# Needs torch with CUDA, triton, nvcc, g++ and pytest. Uses pytest-benchmark (without it no
# benchmarks), monai (without it no comparison with it) and compute-sanitizer (without it no
# memory check), and says what it left out. Installs nothing. SANITIZE=0 leaves the memory check
# out; QUICK=1 runs the small benchmarks.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=$(realpath -m "${1:-gpu_results}")
mkdir -p "$out"
failed=()

has() { "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }
step() { echo "== $* ($(date +%T))"; }

step build
SEGLOSS_BUILD=require SEGLOSS_CUDA=1 "$python" setup.py --quiet build_ext --inplace
"$python" -m segloss_fast -v | tee "$out/backends.txt"
for impl in native triton; do
  grep -Eq "cuda +$impl +yes" "$out/backends.txt" || { echo "no $impl kernels on this GPU"; exit 1; }
done

# Without the settings of pyproject.toml that need pytest-benchmark, or that make failures of the
# warnings of other versions.
pytest=("$python" -m pytest -o addopts= -o filterwarnings= -W default -ra -p no:cacheprovider)

step tests
"${pytest[@]}" tests/gpu --junitxml="$out/tests.xml" || failed+=(tests)

if [ "${SANITIZE:-1}" = 1 ] && command -v compute-sanitizer > /dev/null; then
  step memory check
  # Without torch's cache of memory, in which an access out of bounds would hit another tensor.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 1 \
    --log-file "$out/memcheck.txt" \
    "${pytest[@]}" tests/gpu/test_{region_sums,hardest_voxels,confusion_sums,soft_skeleton,structural_error}.py \
    -k "blocks_and_chunks or one_call or test_random_problems or test_layouts or test_dtypes_and_layouts" \
    || failed+=("memory check")
else
  echo "left out: the memory check (compute-sanitizer)"
fi

if has pytest_benchmark; then
  has monai || echo "left out: the comparison with MONAI"
  step benchmarks
  "$python" benchmarks/run.py --device cuda region_sums distance_transform lovasz losses \
    --output "$out" ${QUICK:+--quick} \
    | tee "$out/report.md" || failed+=(benchmarks)
else
  echo "left out: the benchmarks (pytest-benchmark)"
fi

step done
if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
