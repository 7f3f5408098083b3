"""A tiny random decoder."""

from __future__ import annotations

import pytest
import torch

from minilm.decode.decoder import Decoder
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.heads import Model, new_head
from minilm.text.tokenizer import Tokenizer

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "##s", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in VOCAB))
    return Tokenizer.load(path)


@pytest.fixture
def model():
    config = EncoderConfig(
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        intermediate_size=24,
        vocab_size=len(VOCAB),
        max_positions=40,
        initializer_range=0.5,
    )
    generator = torch.Generator().manual_seed(1)
    encoder = Encoder(config)
    encoder.reset(generator)
    return Model(encoder, new_head("mlm", config, num_labels=0, generator=generator)).eval().requires_grad_(False)


@pytest.fixture
def decoder(model, tokenizer):
    return Decoder(model, tokenizer)
