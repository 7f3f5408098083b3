"""Fine-tuning: one task protocol, one file per kind of task, runs, sweeps and their reports."""
