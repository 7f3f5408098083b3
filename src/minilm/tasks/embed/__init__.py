"""Text vectors: texts, pairs, scored pairs and scored lists to train them with."""
