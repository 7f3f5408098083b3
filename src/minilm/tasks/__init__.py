"""Downstream tasks: reading rows, converting them to tokens, turning model scores into answers, and task settings."""
