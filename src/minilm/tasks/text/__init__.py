"""Labeled texts and pairs: rows, labels, the nine GLUE tasks."""
