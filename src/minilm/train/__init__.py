"""One training loop for every objective: exact resume, safe checkpoints, live progress."""
