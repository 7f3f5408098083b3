"""Ranking the texts of a query: its rows and settings."""
