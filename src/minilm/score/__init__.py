"""Metrics of every task, computed as their official scripts compute them."""
