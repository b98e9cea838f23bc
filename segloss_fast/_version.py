"""The package's version; setup.py compiles it into the native module, which must match at import."""

__version__ = "0.1.0"
