"""The package's version; the native module carries the one that it was built for."""

__version__ = "0.1.0"
