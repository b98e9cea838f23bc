"""Makes tables and plots of the committed results: ``python -m benchmarks.tables.report``.

``--publish`` writes docs/benchmarks.md, between two markers the README's short table and that of
docs/compat.md, and the README's picture, docs/speed.png; ``--plot-lovasz FILE`` draws a Lovász
loss's error and time by the number of voxels; ``--results`` and ``--machine`` choose other results
than all that are committed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure.results import RESULTS, Result, load
from benchmarks.tables import (
    cells,
    compat,
    components,
    distances,
    headlines,
    lovasz,
    patches,
    picture,
)

ROOT = Path(__file__).resolve().parents[2]
README, PAGE = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
COMPAT, PICTURE = ROOT / "docs" / "compat.md", ROOT / "docs" / "speed.png"
PREFACE = """# Benchmarks

All cases of all benchmarks, on the machines of `benchmarks/results/`; written by
`python -m benchmarks.tables.report --publish`. Ratios above 1 mean that ours is faster.
"""
CLOCKS = (
    " The times are the device's own, of a CUDA graph that is replayed from a cold cache; where a "
    "step waits for the device, as some peers do, no graph can hold it, and the gaps that the host "
    "leaves are in it. Wall: of eager steps, forward and backward, with all that the host does."
)


def heading(result: Result) -> str:
    """Return where a result comes from."""
    p = result.provenance
    others = p["others"]
    busy = others != "unknown" and float(others) > 0.1
    if "copy_gb_s" in p and "gpu" in p and p["machine"] == p["gpu_machine"]:
        return (
            f"{p['gpu']}, copy bandwidth {p['copy_gb_s']} GB/s; CUDA {p['cuda']}, "
            f"torch {p['torch']}, MONAI {p['monai']}, segloss_fast {p['segloss_fast']} "
            f"({p['cuda_triton']}; {p['cuda_native']}) at commit {p['commit']}, {p['date']}."
        )
    return (
        f"{p['cpu']}, {p['threads']} threads ({p['cores']} cores), {p['system']}; "
        f"Python {p['python']}, torch {p['torch']}, {_peers(p)}, "
        f"segloss_fast {p['segloss_fast']} ({p['native']}) at commit {p['commit']}, {p['date']}."
        + (f" **Others took {float(others):.0%} of the machine meanwhile.**" if busy else "")
    )


def _peers(p: dict[str, str]) -> str:
    """Return the versions of the peers that were there."""
    names = {
        "monai": "MONAI",
        "scipy": "scipy",
        "edt": "edt",
        "connected-components-3d": "connected-components-3d",
        "kornia": "kornia",
    }
    names["segmentation-models-pytorch"] = "segmentation-models-pytorch"
    there = (key for key in names if p.get(key, "not installed") != "not installed")
    return ", ".join(f"{names[key]} {p[key]}" for key in there)


def _own_block(result: Result) -> list[str] | None:
    """Return the paragraphs of a benchmark with tables of its own, None of another."""
    tried = (module.block(result) for module in (distances, components, lovasz, compat, patches))
    return next((paragraphs for paragraphs in tried if paragraphs is not None), None)


def full(results: Sequence[Result]) -> str:
    """Return all tables of all results."""
    parts = []
    for result in results:
        cases = result.cases
        own = _own_block(result)
        if own is not None:
            parts += [f"## `{result.benchmark}`", heading(result), *own]
            continue
        parts += [
            f"## `{result.benchmark}`",
            heading(result),
            "Milliseconds, forward / backward / both: medians of interleaved repeats. "
            "Ratios are of both; above 1, ours is faster. The peer is MONAI unless the case names "
            "another; in the last column is where ours is slower. "
            "The peers' half-precision input is widened to float32 first."
            + (CLOCKS if cells.has_wall(cases) else ""),
            cells.times(cases),
            *cells.remarks(cases),
            *_bandwidth(result),
            "MB above inputs and gradient, kept for backward / peak:",
            cells.memory(cases),
            "Errors against float64, value / gradient in relative L2 / max gradient error over max "
            "gradient (half precision: the gradient is rounded to it):",
            cells.accuracy(cases),
        ]
    return "\n\n".join(parts)


def _bandwidth(result: Result) -> list[str]:
    """Return the table of bandwidths, for a GPU."""
    if not any(case.device == "cuda" for case in result.cases):
        return []
    copy = 1e9 * float(result.provenance["copy_gb_s"])
    columns = {"triton": "Triton", "native": "CUDA C++"}
    return [
        "Bandwidth, forward / backward, as a part of that of a copy, on the bytes that no kernel "
        "can avoid:",
        cells.bandwidth(result.cases, copy, columns, cells.describe),
    ]


def page(results: Sequence[Result]) -> str:
    """Return docs/benchmarks.md."""
    return f"{PREFACE}\n{full(results)}\n"


def publish(results: Sequence[Result]) -> None:
    """Write the page of all tables, those within other pages, and the README's picture."""
    PAGE.write_text(page(results), encoding="utf-8")
    update(README, headlines.block(results))
    update(COMPAT, compat.page(results))
    picture.draw(results, PICTURE)


def update(path: Path, block: str) -> None:
    """Replace what is between the markers.

    Raises:
        ValueError: If the file does not hold both, in order.
    """
    first, last = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"{path.name} must hold {first} and, after it, {last}")
    path.write_text(f"{before}{begin}\n{block}\n{end}{after}", encoding="utf-8")


def _of(results: Sequence[Result], benchmark: str) -> Result:
    """Return the result of one benchmark, of the first machine."""
    found = next((result for result in results if result.benchmark == benchmark), None)
    if found is None:
        raise ValueError(f"there are no results of {benchmark}")
    return found


def main() -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of results")
    parser.add_argument("--machine", action="append", default=[], help="only this machine's")
    parser.add_argument("--publish", action="store_true", help="write the tables")
    parser.add_argument("--plot-lovasz", type=Path, metavar="FILE", help="write its plot (PNG)")
    options = parser.parse_args()
    results = load(options.results, options.machine)
    if not results:
        print(f"no results in {options.results.name}: run make bench", file=sys.stderr)
        return 1
    if options.publish:
        publish(results)
    if options.plot_lovasz:
        lovasz.plot(_of(results, lovasz.SCALING), options.plot_lovasz)
    if not (options.publish or options.plot_lovasz):
        print(full(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
