"""What the Triton kernels of several primitives share: tiles, sums, elementary functions, launches.

Nothing here is imported where Triton is missing.
"""
