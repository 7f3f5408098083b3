"""Running a saved model: engines, token-budget batching, the Python API."""
