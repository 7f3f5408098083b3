"""From source to text: key/value caches, beam search, sampling, score traces."""
