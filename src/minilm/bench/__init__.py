"""Measure engines on this machine, beside sentence-transformers and beside what the units of the processor can do."""
