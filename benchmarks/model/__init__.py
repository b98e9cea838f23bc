"""What a GPU should need for the main kernels, by their code: ``python -m benchmarks.model``.

No kernel has run on a GPU yet. This counts what can be counted without one (bytes, instructions,
registers, launches), turns it into times by a few numbers of an H200 (device.py), and writes them
down before the first run, which confirms or refutes them.
"""
