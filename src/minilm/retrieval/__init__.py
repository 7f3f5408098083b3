"""Search by meaning or by words: an index in a folder, its scores, and hard negatives for training."""
