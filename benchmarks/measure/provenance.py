"""Where, on what and when benchmarks ran."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import torch

import segloss_fast
from benchmarks.measure import cuda
from benchmarks.measure.memory import regime

ROOT = Path(__file__).resolve().parents[2]
THREADS = 2
PACKAGES = (
    *("torch", "monai", "scipy", "edt", "kornia", "segmentation-models-pytorch"),
    "connected-components-3d",
)


def machine() -> dict[str, str]:
    """Return what the numbers depend on besides the code, without host, user or path."""
    cpu = _cpu_name()
    native = next(b for b in segloss_fast.backends() if b.impl == "native" and b.device == "cpu")
    return {
        "machine": machine_slug(cpu, THREADS),
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "threads": str(THREADS),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "native": native.detail,
        **(_gpu() if torch.cuda.is_available() else {}),
    }


def _gpu() -> dict[str, str]:
    properties = torch.cuda.get_device_properties(0)
    kernels = {
        f"cuda_{b.impl}": b.detail
        for b in segloss_fast.backends()
        if b.device == "cuda" and b.impl != "reference"
    }
    return {
        "gpu": properties.name,
        "gpu_machine": "-".join(re.findall(r"[a-z0-9]+", properties.name.lower())),
        "cuda": str(torch.version.cuda),
        **kernels,
    }


class Session:
    """What a run of benchmarks says about itself: begin one before it, ask it at the end."""

    def __init__(self) -> None:
        self._commit = _commit()
        self._copy = cuda.copy_bandwidth() if torch.cuda.is_available() else 0.0
        self._start = _cpu_seconds()

    def provenance(self) -> dict[str, str]:
        """Return the machine, commit, date, and the share of its CPU time that others took."""
        total, busy, own = (
            end - start for end, start in zip(_cpu_seconds(), self._start, strict=True)
        )
        return {
            **machine(),
            "segloss_fast": segloss_fast.__version__,
            "commit": self._commit,
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            **({"copy_gb_s": f"{self._copy / 1e9:.0f}"} if self._copy else {}),
            "memory": regime(),
            "others": f"{max(0.0, busy - own) / total:.2f}" if total else "unknown",
        }


def _cpu_seconds() -> tuple[float, float, float]:
    """Return CPU seconds: of all cores, of these not idle, and of this process; 0 if unknown."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0, 0.0, 0.0
    ticks = [int(count) for count in stat.read_text().splitlines()[0].split()[1:9]]
    second = os.sysconf("SC_CLK_TCK")
    idle = ticks[3] + ticks[4]  # idle, and waiting for input or output
    return sum(ticks) / second, (sum(ticks) - idle) / second, sum(os.times()[:4])


def machine_slug(cpu: str, threads: int) -> str:
    """Return the name of the machine's folder of results, like ``amd-epyc-2t``."""
    plain = re.sub(r"\((r|tm)\)|@.*|\bcpu\b|\b\d+-core\b|\bprocessor\b", " ", cpu.lower())
    return "-".join([*re.findall(r"[a-z0-9]+", plain), f"{threads}t"])


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        match = re.search(r"model name\s*:\s*(.+)", info.read_text())
        if match:
            return match.group(1).strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.check_output(
            ["git", *arguments], cwd=ROOT, text=True, stderr=subprocess.DEVNULL
        ).strip()

    try:
        commit = git("rev-parse", "--short=10", "HEAD")
        # Results and README change while benchmarks run; what is measured is here.
        changed = git("status", "--porcelain", "--", "segloss_fast", "csrc", "setup.py")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit} with uncommitted changes" if changed else commit
