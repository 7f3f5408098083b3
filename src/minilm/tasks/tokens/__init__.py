"""Tagged words (named entities): rows, tag schemes, words as tokens, entities in texts."""
