"""Sequence-to-sequence tasks: reading pairs of source and target, and masking them."""
