"""What was predicted, as it is kept and as a page: docs/gpu_model.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from benchmarks.model import code, device
from benchmarks.model.device import Kernel, Native
from benchmarks.tables.cells import number, table

HERE = Path(__file__).parent
KEPT, NATIVE = HERE / "predictions.json", HERE / "native.json"
BEFORE = HERE / "forward_before.json"  # microseconds, predicted when one kernel served all targets
PAGE = HERE.parents[1] / "docs" / "gpu_model.md"
Predictions = Mapping[str, Sequence[Kernel]]
PREFACE = f"""# What a GPU should need: predictions

**No kernel has run on a GPU yet.** What follows is a model, written down before the first run so
that this run can confirm or refute it. `python -m benchmarks.model` compiles the Triton kernels for
sm_90, counts, and writes this page; `scripts/gpu_check.sh FOLDER time` measures the same cases on a
device and prints each prediction beside what it found.

What is counted, from the machine code and the shapes:

- *MB*: what a kernel must read and write once. The time under *memory* is that at the speed of a
  large copy, {device.COPY / 1e12:.1f} TB/s on an {device.NAME}.
- *instructions*: of a thread in the innermost loop, per element of the input; and the time that
  they take, with those of the loops around it, at {device.ISSUED / 1e12:.1f}e12 instructions of a
  warp per second, on {device.MULTIPROCESSORS} multiprocessors.
- *registers* of a thread, and how many *programs* they let a multiprocessor run *at once*; the
  programs of the launch, and how often these fill the device (*waves*).
- *waits*, of the short kernels that add up what the programs left: how often a thread waits for
  memory.

What is assumed:

- Good kernels reach {device.OF_COPY:.0%} of a copy, and {device.OF_ISSUE:.0%} of the instructions
  that fit into the time. Where both limits are close, they add up partly. In the last wave only the
  multiprocessors that still have a program carry out instructions.
- A wait takes {device.ROUND_TRIP} us, and a short kernel {device.SYNCHRONISED} us besides.
- The kernel of a loss's formula, and a product in backward, are left out.
- Atomic additions, which the Lovász histogram makes for every voxel and class, count as one
  instruction each: its predictions are lower bounds.

Of the kernels in CUDA C++ there are bounds instead: their loops run over shares of classes,
candidates or bins, whose number the code alone does not tell.
"""


STEPS = """
Microseconds of these kernels alone; these two come on top. *before*: what was predicted of forward
when one kernel served class indices and values alike.
"""
CODE = """
Of Dice and cross-entropy with class indices of one byte, in Triton, for both architectures; before
these had a kernel of their own → with it, where the two differ. *around*: instructions per element
of the loops around the innermost one, which take logarithms and add up what a program has in
registers. Of 105 classes a tile holds 128.
"""


def save(predictions: Predictions, natives: Sequence[Native]) -> None:
    """Write what was counted, and the page."""
    NATIVE.write_text(json.dumps([asdict(native) for native in natives], indent=1) + "\n")
    raw = {case: [asdict(kernel) for kernel in kernels] for case, kernels in predictions.items()}
    KEPT.write_text(json.dumps(raw, indent=1) + "\n")
    PAGE.write_text(page(predictions, natives))


def load() -> dict[str, list[Kernel]]:
    """Read what was counted."""
    raw: dict[str, list[dict[str, Any]]] = json.loads(KEPT.read_text())
    names = {field.name for field in fields(Kernel)}
    return {
        case: [Kernel(**{name: kernel[name] for name in names}) for kernel in kernels]
        for case, kernels in raw.items()
    }


def load_natives() -> list[Native]:
    """Read what was counted of the kernels in CUDA C++."""
    return [Native(**raw) for raw in json.loads(NATIVE.read_text())]


def milliseconds(kernels: Sequence[Kernel]) -> dict[str, float]:
    """Return the times of forward and both, of kernels alone, named as in the device's results."""
    forward = sum(kernel.us for kernel in kernels if kernel.direction == "forward")
    both = sum(kernel.us for kernel in kernels)
    return {"forward_ms": forward / 1e3, "both_ms": both / 1e3}


def page(predictions: Predictions, natives: Sequence[Native]) -> str:
    """Return the page."""
    head = ["case", "kernel", "MB", "memory, us", "instructions", "instructions, us", "registers"]
    head += ["programs at once", "programs", "waves", "predicted, us", "% of copy", "bound by"]
    long, short = [], []
    for case, kernels in predictions.items():
        for kernel in kernels:
            if kernel.round_trips:
                short.append(_short(case, kernel))
            else:
                long.append(_long(case, kernel))
    before: dict[str, float] = json.loads(BEFORE.read_text())
    steps = [
        [
            case,
            number(before[case]) if case in before else "",
            *(number(1e3 * ms) for ms in milliseconds(kernels).values()),
            str(len(kernels)),
        ]
        for case, kernels in predictions.items()
    ]
    return (
        "\n\n".join(
            [
                PREFACE.rstrip(),
                "## The kernels that read the input",
                table(head, long),
                "## The code of the forward kernels of the sums",
                CODE.strip(),
                code.section(code.load(), code.load(code.BEFORE)),
                "## The short kernels behind them",
                table(["case", "kernel", "MB", "waits", "programs", "predicted, us"], short),
                "## Whole steps",
                STEPS.strip(),
                table(["case", "before", "forward", "forward and backward", "launches"], steps),
                "## CUDA C++: bounds",
                "Of float32, labels of one byte. Nothing spills. None can be faster than memory.",
                table(
                    [
                        "kernel",
                        "MB",
                        "at least, us",
                        "registers",
                        "threads of a block",
                        "blocks at once",
                    ],
                    [_native(native) for native in natives],
                ),
            ]
        )
        + "\n"
    )


def _long(case: str, kernel: Kernel) -> list[str]:
    return [
        case,
        f"`{kernel.name}`",
        number(kernel.bytes / 1e6),
        number(kernel.memory_us),
        f"{kernel.instructions:.1f}",
        number(kernel.issue_us),
        str(kernel.registers),
        str(kernel.resident),
        str(kernel.programs),
        f"{kernel.waves:.1f}",
        number(kernel.us),
        f"{kernel.memory_us / kernel.us:.0%}",
        kernel.bound,
    ]


def _native(native: Native) -> list[str]:
    numbers = (native.registers, native.threads, native.resident)
    sizes = [number(native.bytes / 1e6), number(native.least_us)]
    return [native.what, *sizes, *map(str, numbers)]


def _short(case: str, kernel: Kernel) -> list[str]:
    megabytes = f"{kernel.bytes / 1e6:.2f}"
    waits, programs = str(kernel.round_trips), str(kernel.programs)
    return [case, f"`{kernel.name}`", megabytes, waits, programs, number(kernel.us)]
