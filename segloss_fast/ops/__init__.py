"""The primitives: the only part of the package that touches kernels."""
