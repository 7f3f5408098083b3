"""Proves that a RoBERTa model learns to generate: byte-level BPE, `<s>`/`</s>`, positions after the padding id."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from minilm.finetune.sweep import finetune
from minilm.infer.api import load
from minilm.model.checkpoint import write_model
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.heads import Model, new_head
from minilm.recipe import FinetuneRecipe, load_recipe

SPECIAL = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
WORDS = ("Zoë", "ran", "Über", "naïve", "DOGS")


def write_roberta(folder: Path) -> None:
    """A random model of two layers, with a tokenizer that knows the words."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[*SPECIAL.values()], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([f"{word} {word}" for word in WORDS], trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    names = {f"{role}_token": token for role, token in {**SPECIAL, "cls": "<s>", "sep": "</s>"}.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer", **names}))
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 64, "max_positions": 34}
    config = EncoderConfig(
        **sizes, vocab_size=backend.get_vocab_size(), num_segments=1, family="roberta", pad_token_id=1, hidden_dropout=0
    )
    generator = torch.Generator().manual_seed(0)
    encoder = Encoder(config)
    encoder.reset(generator)
    write_model(Model(encoder, new_head("mlm", config, num_labels=0, generator=generator)), folder, head="mlm")


@pytest.mark.slow
def test_it_learns_to_repeat_its_source(tmp_path: Path):
    write_roberta(tmp_path / "model")
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 2))) for _ in range(200)]
    rows = "".join(json.dumps({"src": text, "tgt": text}) + "\n" for text in texts)
    (tmp_path / "train.jsonl").write_text(rows)
    recipe = {
        "kind": "finetune", "name": "repeat", "out": str(tmp_path / "run"), "model": str(tmp_path / "model"),
        "task": {
            "kind": "seq2seq", "name": "seq2seq", "train": [str(tmp_path / "train.jsonl")], "label_smoothing": 0.0,
            "max_source_tokens": 16, "max_target_tokens": 12,
        },
        "train": {"steps": 220, "batch_size": 16, "learning_rate": 0.005, "warmup_steps": 20},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    finetune(load_recipe(tmp_path / "recipe.yaml", [], kind=FinetuneRecipe))
    model = load(tmp_path / "run" / "model")
    asked = sorted(set(texts))
    found = model.generate(asked, beam_size=3, max_target_tokens=12)
    right = sum(text == generated for text, generated in zip(asked, found, strict=True))
    assert right >= 0.9 * len(asked), list(zip(asked, found, strict=True))
