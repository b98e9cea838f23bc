#!/usr/bin/env bash
# Installs the wheel in dist/ into a fresh environment and runs there what `make test` runs, on a
# copy of the tests that has no package beside it. Called by `make wheel-check`.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
rm -rf build/wheel
mkdir -p build/wheel
"${PYTHON:-python3}" -m venv build/wheel/venv
python=$root/build/wheel/venv/bin/python
pip=("$python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt)
"${pip[@]}" pip "setuptools>=77" wheel
"${pip[@]}" torch numpy
"${pip[@]}" dist/*.whl
# shellcheck disable=SC2046
"${pip[@]}" $("$python" scripts/extra.py test)
"${pip[@]}" --no-deps segmentation-models-pytorch==0.6.0
"$python" -m tests.suite.tree build/wheel/tree
# No package, only what setup.py reads: a folder without __init__.py gives way to what is installed.
find build/wheel/tree/segloss_fast -type f ! -name _version.py -delete
cd build/wheel/tree
"$python" -m segloss_fast
"$python" -m pytest --numprocesses "${WORKERS:-auto}" --dist worksteal --tier=test $1
