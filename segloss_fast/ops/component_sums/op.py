"""The kernels of component_sums: there are none beside its definition."""

from __future__ import annotations

from segloss_fast.ops._operator import Kernels

kernels = Kernels("component_sums")
