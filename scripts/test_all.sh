#!/usr/bin/env bash
# Runs all tests, and reports the branches of the package that they covered. The passes:
#   1. `make test`, with more of the tests: those with native kernels, and those that compile, model
#      and install kernels;
#   2. Triton's kernels in its interpreter, which a process chooses at its first import;
#   3. in random order, a copy of the tree without native kernels, where PyTorch serves everything:
#      of tests that name no implementation the first cases, and no graphs (--part).
# A test that names an implementation runs once for each. `make test-all` calls this.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=${BIN:-$root/.venv/bin}/python
unset PYTHONDONTWRITEBYTECODE # all passes and their workers take the same tests
export COVERAGE_PROCESS_START=$root/pyproject.toml COVERAGE_FILE=$root/build/coverage/data
rm -rf build/coverage build/durations.jsonl
mkdir -p build/coverage
record=("--durations-to=$root/build/durations.jsonl") # with =, or pytest takes the path for a test

tests() {
  "$python" -m pytest --numprocesses "${WORKERS:-auto}" --dist worksteal --tier=all "${record[@]}" "$@"
}
cores=${WORKERS:-auto}
if [[ $cores == auto ]]; then cores=$(nproc); fi
native() { "$python" -c 'import sys; from segloss_fast import _native; sys.exit(_native._C is None)'; }

# Most of it is downloaded, while others compute: a test that comes too early waits, and one that
# finds none says why.
"$python" -m tests.compat.nnunet_site >/dev/null 2>&1 &

echo "== 1 of 3: with native kernels ($(date +%T))"
more=()
if native; then more=(--tier=all --part native); fi
"${MAKE:-make}" --no-print-directory test WORKERS="${WORKERS:-auto}" ARGS="${more[*]} ${record[*]}"
# Side by side, each with half of the processes: either collects tests, and ends with one that is
# left, which more of them do not make faster.
echo "== 2 of 3: Triton's interpreter, and 3 of 3: without native kernels ($(date +%T))"
interpreted() { TRITON_INTERPRET=1 tests; }
pure() {
  # Without nnU-Net's tests, whose environment would be made once more, and those of launches of
  # Triton's kernels, which are the same there.
  "$python" -m tests.suite.tree build/pure && cd build/pure && tests --part pure \
    --shuffle "${SHUFFLE:-1}" -m "not (sanitizers or compiled or install or shim)" \
    --ignore-glob="*/test_nnunet_*.py" --ignore-glob="*/test_kept_launches.py"
}
if ((cores > 1)); then
  WORKERS=$((cores / 2))
  export OMP_NUM_THREADS=1 # torch's, in each process
  set -m                   # with a process group of its own
  pure >build/pure.txt 2>&1 &
  other=$!
  set +m
  trap 'kill -- "-$other" 2>/dev/null || true' EXIT
  failed=0
  interpreted || failed=$?
  wait "$other" || failed=$?
  trap - EXIT
  echo "== 3 of 3: without native kernels (ended $(date +%T))"
  cat build/pure.txt
  ((failed == 0))
else
  interpreted
  pure
fi

echo "== branches covered ($(date +%T))"
unset COVERAGE_PROCESS_START
"$python" -m coverage combine --quiet
"$python" -m coverage report
