"""What the benchmarks compare: inputs, our losses, and what they replace."""
