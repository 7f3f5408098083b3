"""Corpora: from text files to token shards, and which documents are read at which step.

In: text files. Out: `build_shards` writes a corpus folder, `Shards` reads it, `minilm.corpus.order` says
what a training step reads.
"""
