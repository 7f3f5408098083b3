"""Downstream tasks: what a row is, what its loss is, how it is scored."""
