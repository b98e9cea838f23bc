#!/usr/bin/env bash
# What a bare machine with a GPU has to do, in stages, the one that says most in a minute first:
#
#   scripts/gpu_check.sh [FOLDER [STAGE...]]     FOLDER (default: gpu_results) keeps the results
#
#   smoke     builds for this device, and tries every family of kernels once
#   time      device times with a table by kernel, beside the bandwidth of a copy
#   tests     tests/gpu and the contracts of tests/ops: CUDA C++ first, then Triton, then what is past 2^31
#   sanitize  compute-sanitizer's racecheck and memcheck of the hand-written kernels
#   bench     the benchmarks that are published
#
# Without a stage named: the first four. Each part has a limit of its own, in seconds below; it
# writes results as they come, and hides no other. A stage that passed is not run again: call it
# once more after a stop. Needs torch with CUDA, triton, scipy, nvcc, g++ and pytest; uses
# pytest-xdist, compute-sanitizer, pytest-benchmark and monai where they are. Installs nothing.
# DEVICE=cpu tries the check itself.
#
# Expected minutes on 16 cores and one H200 (estimates: no stage has run on a GPU yet):
#
#   smoke     2 to 3. The build for one architecture takes as long as its longest file, the Lovasz
#             histogram (70 to 100 s; 171 s on one slow core); the rest of the 25 CUDA and 27 C++
#             files run beside it. Meanwhile 4 processes compile the 140 kernels of Triton that are
#             tried, at 1 to 3 s each: 50 to 100 s. Then what needs the build, some 60 problems of
#             less than a second: 30 s.
#   time      1 to 1.5. 10 losses by two implementations, and 12 distance transforms: 16 Triton
#             kernels (40 s); per step 3 calls, a capture, 15 replays of 0.1 to 1 ms with 60 us to
#             make the cache cold, and 15 eager steps: less than a second. Inputs are made there.
#   tests     5 to 7. Native: some 1000 tests that compile nothing, 60 to 90 s by 8 workers. Triton:
#             about 220 kernels for the losses and 50 for TopK (counted by
#             tests/test_gpu_variants.py), 600 for the other primitives, at 1.5 s each by 8 workers:
#             160 s; beside them the references in float64 on the CPU: 60 to 120 s. What is past
#             2^31 runs alone: 45 s.
#   sanitize  2 to 3. Two tools, each with the start of Python under it (20 s) and 14 small problems
#             at 10 to 50 times their time: 45 to 75 s.
#   bench     25 to 30. Its limit; 70 cases of 4 s interleaved, twice (device and wall), with
#             inputs from the CPU (3 to 10 s) and torch.compile (30 to 60 s) where it is compared.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
out=$(realpath -m "${1:-gpu_results}")
shift || true
stages=("$@")
[ ${#stages[@]} -gt 0 ] || stages=(smoke time tests sanitize)
mkdir -p "$out"
small=()
[ "$device" = cuda ] || small=(--device "$device" --small)
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD
BIG="more_than_2_to_the_31 or past_2_to_the_31 or about_2_to_the_31"

has() { "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }

# Runs a part of a stage within so many seconds; what it prints is kept, too.
part() {
  local name=$1 seconds=$2
  shift 2
  timeout --kill-after 5 "$seconds" "$@" 2>&1 | tee -a "$out/$name.txt"
  local status=${PIPESTATUS[0]}
  [ "$status" -ne 124 ] || echo "$name: cut off after $seconds s" | tee -a "$out/$name.txt"
  return "$status"
}

# Without settings that need pytest-benchmark, or that make failures of other versions' warnings.
run_tests() {
  local name=$1 seconds=$2
  shift 2
  local options=(-o addopts= -o filterwarnings= -W default -q -ra --tb=short -p no:cacheprovider)
  part "$name" "$seconds" "$python" -m pytest "${options[@]}" --junitxml="$out/$name.xml" "$@"
  local status=$?
  [ "$status" -eq 5 ] || return "$status" # 5: there was none to run
}

build() {
  [ "$device" = cuda ] || return 0
  local architecture
  architecture=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
  SEGLOSS_CUDA_ARCHITECTURES=${SEGLOSS_CUDA_ARCHITECTURES:-$architecture} SEGLOSS_BUILD=require \
    SEGLOSS_CUDA=1 "$python" setup.py --quiet build_ext --inplace
}

# Triton's kernels need no build: they are compiled and tried meanwhile, by several processes.
stage_smoke() {
  local failed=0 shares=${SHARES:-4} pids=() share
  for ((share = 0; share < shares; ++share)); do
    part "triton-$share" 240 "$python" -m tests.gpu.check.smoke "$out" "${small[@]}" \
      --impl triton --share "$share/$shares" &
    pids+=($!)
  done
  part build 240 bash -c "$(declare -f build); device=$device python='$python'; build" || failed=1
  wait "${pids[@]}" # whatever they found is in their files, which the next one reads
  part backends 60 "$python" -m segloss_fast -v || failed=1
  part smoke 150 "$python" -m tests.gpu.check.smoke "$out" "${small[@]}" || failed=1
  return "$failed"
}

stage_time() { part time 180 "$python" -m tests.gpu.check.times "$out" "${small[@]}"; }

stage_tests() {
  local files failed=0 workers=() names="region_sums lovasz region_masks confusion_sums hardest_voxels soft_skeleton structural_error distance_transform"
  names+=" connected_components nearest_component"
  # Contracts are tried on all machines, a device among them.
  files=(tests/gpu $(for name in $names; do ls tests/ops/test_$name{,_steps,_bins,_collapsed,_targets,_limits,_torch}.py; done 2> /dev/null) -m gpu)
  [ "$device" = cuda ] || files=(tests/test_gpu_harness.py)
  if has xdist; then workers=(-n "${WORKERS:-8}" --dist worksteal); fi
  run_tests native 120 "${workers[@]}" "${files[@]}" -k "native and not ($BIG)" || failed=1
  run_tests others 420 "${workers[@]}" "${files[@]}" -k "not native and not ($BIG)" || failed=1
  run_tests big 90 "${files[@]}" -k "$BIG" || failed=1 # each alone: they need the memory
  return "$failed"
}

stage_sanitize() {
  local failed=0 tool
  for tool in racecheck memcheck; do
    if [ "$device" != cuda ]; then
      part "$tool" 60 "$python" -m tests.gpu.check.tiny "$out" "${small[@]}" || failed=1
    elif command -v compute-sanitizer > /dev/null; then
      # Without torch's cache of memory, in which an access out of bounds would hit another tensor.
      PYTORCH_NO_CUDA_MEMORY_CACHING=1 part "$tool" 90 compute-sanitizer --tool "$tool" \
        --error-exitcode 9 "$python" -m tests.gpu.check.tiny "$out" || failed=1
    else
      echo "left out: $tool (compute-sanitizer)"
    fi
  done
  return "$failed"
}

stage_bench() {
  has pytest_benchmark || { echo "left out: the benchmarks (pytest-benchmark)"; return 0; }
  has monai || echo "left out: the comparison with MONAI"
  part bench 1800 "$python" benchmarks/run.py --device "$device" \
    region_sums distance_transform lovasz losses --output "$out" ${QUICK:+--quick}
}

failed=()
for stage in "${stages[@]}"; do
  if ! declare -F "stage_$stage" > /dev/null; then
    echo "unknown stage: $stage (smoke, time, tests, sanitize, bench)"
    exit 2
  fi
  if [ -e "$out/$stage.passed" ]; then
    echo "== $stage has passed"
    continue
  fi
  echo "== $stage ($(date +%T))"
  if "stage_$stage"; then touch "$out/$stage.passed"; else failed+=("$stage"); fi
done
echo "== done ($(date +%T)); results: $out"
[ ${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "${failed[@]}"; exit 1; }
