"""Pairs of source and target: rows, and how a model is shown them."""
