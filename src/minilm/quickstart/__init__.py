"""The whole path on what is installed: distil, fine-tune, score, compare."""
