"""ROUGE-1, -2 and -L with the numbers of ROUGE-1.5.5."""
