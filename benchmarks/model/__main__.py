"""Counts all kernels of the model, and writes what it found (*.json) and docs/gpu_model.md."""

from __future__ import annotations

from benchmarks.model import code, native, page
from benchmarks.model.count import code_all, count_all


def main() -> None:
    """Compile, count, write."""
    counted = {case.name("triton"): kernels for case, kernels in count_all()}
    code.save(code_all())
    page.save(counted, native.count_all())


if __name__ == "__main__":
    main()
