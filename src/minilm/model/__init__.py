"""The encoder: configuration, packed batches, attention, heads and model files."""
