"""The full workflow on installed text, without downloads: distill, fine-tune, score, compare."""
