"""The encoder: its configuration, packed batches, attention, heads and files."""
