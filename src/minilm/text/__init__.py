"""Text to token ids: vocabulary files and tokenizers.

In: a model folder, a tokenizer.json or a vocab.txt, and text. Out: int32 ids, truncated but never padded.
"""
