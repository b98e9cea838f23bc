"""Build the optional native module; everything else about the package is in pyproject.toml.

``SEGLOSS_BUILD=auto`` (the default) installs a pure-Python package, with a warning, where the
native module cannot be built; ``require`` makes that an error; ``skip`` does not try.
"""

import os
import re
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent
MODES = ("auto", "require", "skip")
STABLE_ABI_TARGET = "0x020a000000000000"  # LibTorch 2.10: the lowest torch the binary loads into
# Not -ffast-math: NaN and infinity must behave. Contraction into FMA only where the target has it.
CXX_FLAGS = [
    "-O3",
    "-std=c++20",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
]


def version() -> str:
    """Read the version without importing the package, which needs torch."""
    match = re.search(r'__version__ = "(.+)"', (ROOT / "segloss_fast/_version.py").read_text())
    assert match is not None
    return match[1]


def native_extension() -> Extension:
    """Describe ``segloss_fast._C``; ImportError without torch or pybind11 to build with."""
    import pybind11
    from torch.utils import cpp_extension

    # pip puts ninja beside the interpreter, which need not be on PATH.
    path = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join((path, sysconfig.get_path("scripts")))
    flags = CXX_FLAGS + os.environ.get("CXXFLAGS", "").split()
    defines = {
        "TORCH_TARGET_VERSION": STABLE_ABI_TARGET,
        "SEGLOSS_VERSION": f'"{version()}"',
        "SEGLOSS_FLAGS": f'"{" ".join(flags)}"',
    }
    # Headers of others do not warn; error messages hold source paths, from the package's root.
    local = [
        *(f"-isystem{path}" for path in (pybind11.get_include(), *cpp_extension.include_paths())),
        f"-ffile-prefix-map={ROOT.resolve()}=.",
    ]
    return Extension(
        "segloss_fast._C",
        sources=sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*.cpp")),
        include_dirs=[str(ROOT / "csrc")],
        library_dirs=cpp_extension.library_paths(),
        libraries=["torch_cpu"],
        extra_compile_args={
            "cxx": [*flags, *local, *(f"-D{name}={value}" for name, value in defines.items())]
        },
        extra_link_args=["-Wl,-z,relro,-z,now"] if sys.platform == "linux" else [],
        language="c++",
    )


def build_arguments(mode: str) -> dict[str, object]:
    """Return what setup() needs for the native module, nothing where there is none to build."""
    if mode == "skip":
        return {}
    try:
        extension = native_extension()
        from torch.utils.cpp_extension import BuildExtension
    except ImportError as error:
        if mode == "require":
            raise
        print(f"segloss_fast: installing without native kernels: {error}", file=sys.stderr)
        return {}

    class OptionalBuild(BuildExtension):
        """BuildExtension that, in mode auto, turns a failed build into a pure-Python install."""

        def run(self) -> None:
            try:
                super().run()
            # ninja fails with RuntimeError, a missing compiler with one of setuptools' many errors.
            except Exception as error:
                if mode == "require":
                    raise
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)  # an older one
                self.extensions: list[Extension] = []
                print(
                    f"segloss_fast: native build failed, installing without: {error}",
                    file=sys.stderr,
                )

    return {"ext_modules": [extension], "cmdclass": {"build_ext": OptionalBuild}}


mode = os.environ.get("SEGLOSS_BUILD", "auto")
if mode not in MODES:
    raise SystemExit(f"SEGLOSS_BUILD must be one of {', '.join(MODES)}, got {mode!r}")
setup(**build_arguments(mode))
