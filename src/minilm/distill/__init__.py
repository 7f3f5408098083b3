"""Deep self-attention distillation: losses, teacher, student, the run."""
