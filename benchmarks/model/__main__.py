"""Counts all kernels of the model, and writes predictions.json and docs/gpu_model.md."""

from __future__ import annotations

from benchmarks.model import page
from benchmarks.model.count import count_all


def main() -> None:
    """Compile, count, write."""
    page.save({case.name("triton"): kernels for case, kernels in count_all()})


if __name__ == "__main__":
    main()
