"""How the benchmarks measure, and what they keep of it."""
