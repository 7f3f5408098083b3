"""Decoding: key/value cache, beam search, greedy decoding, sampling and score traces."""
