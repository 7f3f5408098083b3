"""Extractive question answering: reading SQuAD files, windows, answers."""
