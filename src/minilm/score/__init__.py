"""Scores, and the page that shows them."""
