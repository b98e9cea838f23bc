"""Build the optional native libraries; everything else about the package is in pyproject.toml.

``SEGLOSS_BUILD=auto`` (the default) installs a pure-Python package, with a warning, where the
native module cannot be built; ``require`` makes that an error; ``skip`` does not try. The torch to
build against is that of the environment, which setup_torch.py finds where the build is isolated.
Why a package is pure is written into it, as ``segloss_fast/_pure.json``: it then says so itself.

The CUDA library is built besides, where torch has CUDA and its compiler, nvcc, is there;
``SEGLOSS_CUDA=0`` leaves it out, ``SEGLOSS_CUDA=1`` makes its absence an error.
"""

import json
import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # a build without isolation takes what is there
    raise SystemExit(
        "segloss_fast: setuptools 77 or later is needed; run: pip install 'setuptools>=77'"
    ) from None

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # build back ends do not add it

import setup_torch  # noqa: E402

MODES = ("auto", "require", "skip")
STABLE_ABI_TARGET = "0x020a000000000000"  # LibTorch 2.10: the lowest torch the binary loads into
# Not -ffast-math: NaN and infinity must behave. Contraction into FMA only where the target has it.
CXX_FLAGS = [
    "-O3",
    "-std=c++20",
    "-fopenmp-simd",
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
    "-fvisibility=hidden",
    # A distribution may have set another level of the second.
    *("-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"),
    *("-g0", "-Wall", "-Wextra", "-Wno-unknown-pragmas"),  # -g is nine tenths of the library
]
NVCC_FLAGS = ["-O3", "-std=c++20", "-Xcompiler=-fvisibility=hidden"]
# The data centre's sm_80 (whose code sm_86 and sm_89 run too) and sm_90, and PTX for later ones.
CUDA_ARCHITECTURES = "80 90 90+PTX"


def version() -> str:
    """Read the version without importing the package, which needs torch."""
    match = re.search(r'__version__ = "(.+)"', (ROOT / "segloss_fast/_version.py").read_text())
    assert match is not None
    return match[1]


def sources(suffix: str) -> list[str]:
    """Return the files under csrc with this suffix."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob(f"*{suffix}"))


def kernels_first(source: str) -> tuple[int, str]:
    """Sort files so that those with most kernels come first: they compile longest."""
    parts = (ROOT / source).parent.glob("*.inc") if source.endswith("kernels.cpp") else ()
    return -sum(part.stat().st_size for part in parts), source


def define_flags(**defines: str) -> list[str]:
    """Return the macros that every file is compiled with, and these."""
    common = {"TORCH_TARGET_VERSION": STABLE_ABI_TARGET, "SEGLOSS_VERSION": f'"{version()}"'}
    return [f"-D{name}={value}" for name, value in {**common, **defines}.items()]


def native_extension() -> Extension:
    """Describe ``segloss_fast._C``; ImportError without torch to build with."""
    from torch.utils import cpp_extension

    try:
        import pybind11

        bindings = [pybind11.get_include()]
    except ImportError:
        bindings = []  # torch's own copy will do

    # pip puts ninja beside the interpreter, which need not be on PATH.
    path = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join((path, sysconfig.get_path("scripts")))
    flags = CXX_FLAGS + os.environ.get("CXXFLAGS", "").split()
    # Headers of others do not warn; error messages hold source paths, from the package's root.
    local = [f"-isystem{path}" for path in (*bindings, *cpp_extension.include_paths())]
    local.append(f"-ffile-prefix-map={ROOT.resolve()}=.")
    defines = define_flags(SEGLOSS_FLAGS=f'"{" ".join(flags)}"')
    return Extension(
        "segloss_fast._C",
        sources=sources(".cpp"),
        include_dirs=[str(ROOT / "csrc")],
        library_dirs=cpp_extension.library_paths(),
        libraries=["torch_cpu"],
        extra_compile_args={"cxx": [*flags, *local, *defines]},
        extra_link_args=["-Wl,-z,relro,-z,now"] if sys.platform == "linux" else [],
        language="c++",
    )


def cuda_targets(architectures: str) -> dict[str, str]:
    """Return the flag of nvcc for each target, as in ``"80 90 90+PTX"``; ValueError for others."""
    found = {}
    for architecture in architectures.split():
        match = re.fullmatch(r"(\d{2,3}a?)(\+PTX)?", architecture)
        if match is None:
            raise ValueError(
                "SEGLOSS_CUDA_ARCHITECTURES must hold numbers like 90, or 90+PTX for what follows, "
                f"got {architecture!r}"
            )
        target = f"{'compute' if match[2] else 'sm'}_{match[1]}"
        found[target] = f"-gencode=arch=compute_{match[1]},code={target}"
    if not found:
        raise ValueError("SEGLOSS_CUDA_ARCHITECTURES must name an architecture, got none")
    return found


def why_no_cuda() -> str | None:
    """Return why the CUDA library cannot be built here, None where it can."""
    import torch
    from torch.utils import cpp_extension

    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    if cpp_extension.CUDA_HOME is None:
        return "CUDA's compiler, nvcc, was not found (CUDA_HOME)"
    return None


def cuda_extension() -> Extension:
    """Describe ``segloss_fast._C_cuda``, which only registers operators: it is no Python module."""
    from torch.utils import cpp_extension

    targets = cuda_targets(os.environ.get("SEGLOSS_CUDA_ARCHITECTURES", CUDA_ARCHITECTURES))
    defines = define_flags(SEGLOSS_CUDA_ARCHITECTURES=f'"{" ".join(targets)}"')
    return Extension(
        "segloss_fast._C_cuda",
        sources=sources(".cu"),
        include_dirs=[str(ROOT / "csrc")],
        library_dirs=cpp_extension.library_paths("cuda"),
        # CUDA's runtime statically: the library then serves any minor version of it.
        libraries=["torch_cpu", "torch_cuda", "cudart_static", "dl", "rt", "pthread"],
        extra_compile_args={
            "cxx": [],  # all is nvcc's
            "nvcc": [
                *NVCC_FLAGS,
                *targets.values(),
                *(f"-isystem={path}" for path in cpp_extension.include_paths("cuda")),
                f"-Xcompiler=-ffile-prefix-map={ROOT.resolve()}=.",
                "-DUSE_CUDA",
                *defines,
            ],
        },
        extra_link_args=["-Wl,-z,relro,-z,now"] if sys.platform == "linux" else [],
        language="c++",
    )


def check_compiler() -> None:
    """Raise FileNotFoundError unless there is a C++ compiler."""
    name = os.environ.get("CXX", "c++").split()[0]
    if os.name != "nt" and shutil.which(name) is None:
        raise FileNotFoundError(f"no C++ compiler ({name}) found")


def extensions() -> list[Extension]:
    """Return what to build.

    Raises:
        ImportError: Without a torch to build against.
        FileNotFoundError: Without a compiler.
    """
    setup_torch.make_importable()
    check_compiler()
    found = [native_extension()]
    if CUDA == "0":
        return found
    reason = why_no_cuda()
    if reason is None:
        return [*found, cuda_extension()]
    if CUDA == "1":
        raise SystemExit(f"SEGLOSS_CUDA=1, but {reason}")
    print(f"segloss_fast: building without CUDA kernels: {reason}", file=sys.stderr)
    return found


# Why the package that is built has no native kernels: a kind, which says what would help, and what
# was wrong. Empty where it has them.
pure: dict[str, str] = {}


def give_up(kind: str, error: object) -> None:
    """Go on without native kernels, and remember why."""
    pure.update(kind=kind, reason=str(error).strip())
    print(f"segloss_fast: installing without native kernels: {error}", file=sys.stderr)


class BuildPython(build_py):  # type: ignore[misc] # setuptools is untyped
    """Writes why the package is pure; of an editable install, into the source tree."""

    def run(self) -> None:
        super().run()
        self.write()

    def write(self) -> None:
        """Write what is known now, or take away what an earlier build wrote."""
        folder = ROOT if self.editable_mode else Path(self.build_lib)
        path = folder / "segloss_fast" / "_pure.json"
        if not pure:
            path.unlink(missing_ok=True)
            return
        path.write_text(json.dumps(pure))
        for library in path.parent.glob("_C*.so"):  # of an earlier build
            library.unlink()


class Wheel(bdist_wheel):  # type: ignore[misc]
    """Gives a package whose native kernels failed to build the tag of a pure one."""

    def run(self) -> None:
        self.run_command("build")
        self.skip_build = True
        self.root_is_pure = not self.distribution.has_ext_modules()
        super().run()


def optional_build(mode: str) -> type:
    """Return the command that builds extensions with torch."""
    from torch.utils.cpp_extension import BuildExtension

    class OptionalBuild(BuildExtension):
        """BuildExtension that, in mode auto, leaves out what fails: CUDA first, then all."""

        def finalize_options(self) -> None:
            """Keep the object files of editable installs, too: what did not change stays."""
            super().finalize_options()
            if self.inplace:
                self.build_temp = f"build/temp.{self.plat_name}-{sys.implementation.cache_tag}"

        def build_extension(self, ext: Extension) -> None:
            """Compile in the order of kernels_first; setuptools sorts by name."""
            in_order = self.compiler.compile
            self.compiler.compile = lambda files, *rest, **options: in_order(
                sorted(files, key=kernels_first), *rest, **options
            )
            super().build_extension(ext)

        def run(self) -> None:
            try:
                super().run()
            # ninja fails with RuntimeError, a missing compiler with one of setuptools' many errors.
            except Exception as error:
                if mode == "require" or (CUDA == "1" and len(self.extensions) > 1):
                    raise
                dropped: Extension = self.extensions.pop()
                Path(self.get_ext_fullpath(dropped.name)).unlink(missing_ok=True)  # an older one
                if self.extensions:
                    print(f"segloss_fast: CUDA build failed, left out: {error}", file=sys.stderr)
                    self.run()
                    return
                self.distribution.ext_modules = []
                give_up("failed", f"the native build failed: {error}")
                self.get_finalized_command("build_py").write()

    return OptionalBuild


def build_arguments(mode: str) -> dict[str, object]:
    """Return what setup() needs."""
    commands: dict[str, type] = {"build_py": BuildPython, "bdist_wheel": Wheel}
    if sys.argv[1:] == ["egg_info"] or sys.argv[1:2] == ["dist_info"]:
        return {"cmdclass": commands}  # pip only asks for names: importing torch takes seconds
    if mode == "skip":
        pure.update(kind="skip", reason="it was installed with SEGLOSS_BUILD=skip")
        return {"cmdclass": commands}
    try:
        wanted = extensions()
    except (ImportError, FileNotFoundError) as error:
        if mode == "require":
            raise SystemExit(f"segloss_fast: SEGLOSS_BUILD=require, but {error}") from error
        give_up("compiler" if isinstance(error, FileNotFoundError) else "torch", error)
        return {"cmdclass": commands}
    return {"ext_modules": wanted, "cmdclass": {**commands, "build_ext": optional_build(mode)}}


mode = os.environ.get("SEGLOSS_BUILD", "auto")
if mode not in MODES:
    raise SystemExit(f"SEGLOSS_BUILD must be one of {', '.join(MODES)}, got {mode!r}")
CUDA = os.environ.get("SEGLOSS_CUDA")
if CUDA not in (None, "0", "1"):
    raise SystemExit(f"SEGLOSS_CUDA must be 0 or 1, got {CUDA!r}")
if __name__ == "__main__":  # the tests import the flags
    setup(**build_arguments(mode))
