"""Runs fuzzers, each in a process of its own, which begins after the imports that all need.

Under sanitizers these take longer than most fuzzers do.

python tests/sanitizers/fuzz_all.py NAME... NAME=LIBRARY...
"""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from pathlib import Path

import tests.sanitizers.fuzz_sizes
import tests.sanitizers.fuzz_structural_error  # noqa: F401


def run(name: str, *arguments: str) -> int:
    """Run a fuzzer in a copy of this process; return its exit status."""
    sys.stdout.flush()
    process = os.fork()  # torch has started no threads
    if process == 0:
        status = 1
        try:
            script = str(Path(__file__).with_name(f"fuzz_{name}.py"))
            sys.argv = [script, *arguments]
            runpy.run_path(script, run_name="__main__")
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


if __name__ == "__main__":
    for given in sys.argv[1:]:
        name, *library = given.split("=", 1)
        print(f"fuzz_{name} ended with {run(name, *library)}", flush=True)
