"""Questions about passages: reading, windows, answers."""
