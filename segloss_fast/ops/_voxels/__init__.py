"""What primitives share: targets, weights and labels, and their maps in plain PyTorch."""
