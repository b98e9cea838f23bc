"""What the definitions in plain PyTorch share, and what makes them fast on the CPU."""
