"""Deep self-attention distillation: losses, teacher, student, and the run."""
