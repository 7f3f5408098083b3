"""Corpora: convert text files to token shards, and select the documents of each training step.

In: text files. Out: `build_shards` writes a corpus folder, `Shards` reads it, and `minilm.corpus.order` selects the
documents of a step.
"""
