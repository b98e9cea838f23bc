"""Leaves out the tests of kornia's losses where there is no kornia, which needs Python 3.11."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("kornia") is not None else ["test_kornia_*.py"]
