"""The native module: what it tells of itself, and which symbols its files hold and need."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import torch

from segloss_fast import __version__, _native
from tests.conftest import Sandbox
from tests.nvcc import CSRC, HOST, compile_source

CAPABILITIES = ("baseline", "avx2", "avx512")
# Of the C library, the C++ run-time library and their loader.
SYSTEM = re.compile(r"@(GLIBC|GLIBCXX|CXXABI|GCC)_|^_ZNSt|^__gmon_start__$|^_ITM_")


def symbols(*arguments: str) -> list[tuple[str, str]]:
    """Return type and name of the symbols that nm lists."""
    if shutil.which("nm") is None:
        pytest.skip("no nm")
    done = subprocess.run(["nm", *arguments], check=True, capture_output=True, text=True)
    return re.findall(r"^[0-9a-f ]* (\w) (.+)$", done.stdout, re.MULTILINE)


def test_build_info(native: ModuleType) -> None:
    info = native.build_info()
    assert info["version"] == __version__
    assert re.match(r"(gcc|clang) \d+", info["compiler"])
    assert {"-O3", "-std=c++20"} <= set(info["flags"].split())
    assert "-ffast-math" not in info["flags"]  # NaN and infinity must behave
    assert info["abi_target"] == "2.10"
    assert info["cuda_architectures"] == []


@pytest.mark.parametrize("name", CAPABILITIES)
def test_capability_is_lowered(cpu_capability: ModuleType, name: str) -> None:
    best = cpu_capability.cpu_capability()
    assert best in CAPABILITIES
    if CAPABILITIES.index(name) <= CAPABILITIES.index(best):
        cpu_capability.set_cpu_capability(name)
        assert cpu_capability.cpu_capability() == name
        cpu_capability.set_cpu_capability(best)  # raised again
    else:
        with pytest.raises(RuntimeError, match=f"this machine or build has no {name} kernels"):
            cpu_capability.set_cpu_capability(name)
    assert cpu_capability.cpu_capability() == best


def test_unknown_capability(cpu_capability: ModuleType) -> None:
    best = cpu_capability.cpu_capability()
    message = "capability must be one of baseline, avx2, avx512, got sse9"
    with pytest.raises(ValueError, match=message):
        cpu_capability.set_cpu_capability("sse9")
    assert cpu_capability.cpu_capability() == best


def kernel_objects(sandbox: Sandbox) -> dict[str, Path]:
    """Return the file that each primitive's kernels, of all instruction sets, became."""
    objects = (sandbox.source / "build").rglob("kernels.o")
    found = {path.parent.name: path for path in sorted(objects)}
    sources = (sandbox.source / "csrc").glob("*/kernels.cpp")
    assert set(found) == {path.parent.name for path in sources}
    assert {"region_sums", "lovasz", "distance_transform", "voxels"} <= set(found)
    return found


@pytest.mark.sanitizers
def test_kernels_share_no_function(sanitized_sandbox: Sandbox) -> None:
    """The linker keeps one of several inline functions, perhaps that of a newer instruction set.

    The sanitizers' build inlines less than the optimised one.
    """
    personality = "DW.ref.__gxx_personality_v0"  # data of the sanitizers' build
    for primitive, path in kernel_objects(sanitized_sandbox).items():
        found = symbols("-C", str(path))
        assert any(f"{primitive}::baseline::kKernels" in name for _, name in found)
        assert not [s for s in found if s[0] in "WVu" and s[1] != personality], primitive


def code_by_set(path: Path) -> dict[str, str]:
    """Return the instructions in an object file, by the instruction set of their namespace.

    What lies in none of these namespaces runs on any machine, as the baseline does.
    """
    if shutil.which("objdump") is None:
        pytest.skip("no objdump")
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    _, *parts = re.split(r"^[0-9a-f]+ <(.+)>:$", text, flags=re.MULTILINE)
    code = dict.fromkeys(CAPABILITIES, "")
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        inside = re.search(r"::(avx2|avx512)::", name)
        code[inside[1] if inside else "baseline"] += body
    return code


@pytest.mark.sanitizers
@pytest.mark.skipif(platform.machine() != "x86_64", reason="instructions of x86")
def test_instructions_stay_in_their_namespace(sanitized_sandbox: Sandbox) -> None:
    """One file holds the kernels of all instruction sets: none may run where it cannot."""
    bits = "andn|bextr|bls[imrs][a-z]*|bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx"
    newer = re.compile(rf"\t(v[a-z]+\w*|{bits})\s")  # all of AVX begins with a v
    newest = re.compile(r"%zmm|%k[0-7]|%[xy]mm(1[6-9]|2\d|3[01])")
    for primitive, path in kernel_objects(sanitized_sandbox).items():
        code = code_by_set(path)
        assert not newer.search(code["baseline"]), primitive
        assert not newest.search(code["avx2"]), primitive
        assert newer.search(code["avx2"]), primitive
        assert newest.search(code["avx512"]), primitive


@pytest.mark.sanitizers
@pytest.mark.skipif(platform.machine() != "x86_64", reason="instructions of x86")
def test_half_precision_is_converted_in_vectors(sanitized_sandbox: Sandbox) -> None:
    """By F16C, whose macro the compiler need not define where only a pragma asks for it."""
    code = code_by_set(kernel_objects(sanitized_sandbox)["voxels"])  # which reads for all
    for name in CAPABILITIES[1:]:
        assert re.search(r"vcvtph2ps .*%[yz]mm", code[name]), name
        assert re.search(r"vcvtps2ph .*%[yz]mm", code[name]), name


def test_needs_only_stable_symbols(native: ModuleType) -> None:
    """So that the binary loads into other versions of torch: C functions only, no C++ of torch."""
    needed = {name for _, name in symbols("-D", "--undefined-only", str(native.__file__))}
    assert any(name.startswith("aoti_torch_") for name in needed)
    allowed = ("aoti_torch_", "torch_", "Py", "_Py")
    foreign = {name for name in needed if not name.startswith(allowed) and not SYSTEM.search(name)}
    assert not foreign


def test_exports_only_the_module(native: ModuleType) -> None:
    """Names of ours that another library could take for its own, or replace."""
    exported = {name for _, name in symbols("-D", "--defined-only", str(native.__file__))}
    assert "PyInit__C" in exported
    assert not {name for name in exported if "segloss" in name}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="instructions of x86")
def test_arrays_do_not_lie_on_the_stack(native: ModuleType) -> None:
    """A thread's stack may have little room: what kernels need is memory of their own."""
    if shutil.which("objdump") is None:
        pytest.skip("no objdump")
    command = ["objdump", "-d", "--no-show-raw-insn", str(native.__file__)]
    code = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # Taken at once or, where pages are touched one after the other, its end first.
    frames = re.findall(r"sub +\$0x([0-9a-f]{2,7}),%rsp|lea +-0x([0-9a-f]+)\(%rsp\),%r", code)
    sizes = [int(taken or end, 16) for taken, end in frames]
    assert len(sizes) > 100
    assert max(sizes) < 32 * 2**10


@pytest.mark.compiled
def test_module_of_the_cuda_library_compiles() -> None:
    assert compile_source(CSRC / "cuda_module.cu", HOST)[1] == []


class TestCudaLibrary:
    """The loader of the CUDA library, on a machine that has none."""

    @pytest.fixture(autouse=True)
    def with_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")

    def test_torch_without_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.version, "cuda", None)
        assert _native._load_cuda() == "torch was built without CUDA"

    def test_not_built(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_native, "_find", lambda name: None)
        assert "SEGLOSS_CUDA=1" in str(_native._load_cuda())

    def test_does_not_load(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        library = tmp_path / "_C_cuda.so"
        library.write_text("no library")
        monkeypatch.setattr(_native, "_find", lambda name: str(library))
        with pytest.raises(ImportError, match=r"CUDA library that does not load.*make build"):
            _native._load_cuda()

    def test_of_another_version(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ImportError, match=r"found a CUDA library built for 0\.0\.9; rebuild"):
            _native._check_version("a CUDA library", "0.0.9")
