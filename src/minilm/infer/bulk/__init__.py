"""Whole files in, whole files out."""
