"""The training loop for every objective: exact resume, atomic checkpoints, live progress."""
