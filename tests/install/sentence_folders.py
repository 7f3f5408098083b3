"""Check that the installed sentence-transformers computes what minilm does from folders that minilm writes.

In: both packages, installed. Out: exit status 0, or the first difference. `run.py` runs it with the last release 5.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import sentence_transformers
import torch

import minilm
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import write_embedding, write_scorer
from minilm.model.heads import Model, new_head
from minilm.model.vector_modules import Dense, LayerNorm, Normalize

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
TEXTS = ["a b c", "", "h g f e d c b a " * 5, "b"]
STUDENT, TEACHER = 16, 24


def main() -> None:
    """Check an embedding model with every module, an asymmetric model, and rerankers with a head or mean pooling."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        generator = np.random.default_rng(0)
        weight = generator.standard_normal((TEACHER, STUDENT), dtype=np.float32)
        norm = LayerNorm(weight=weight[:, 0], bias=weight[:, 1])
        dense = Dense(weight=weight, bias=weight[:, 2], activation="GELU")
        first = EmbeddingSettings(modules=(dense, norm, Normalize()), max_tokens=12, prompts={"query": "h "})
        second = EmbeddingSettings(pooling=("cls",), modules=(Normalize(),), max_tokens=30, similarity="dot")
        student, teacher = write_encoder(work / "student", STUDENT), write_encoder(work / "teacher", TEACHER)
        write_embedding(student, first, hidden_size=STUDENT)
        write_embedding(teacher, second, hidden_size=TEACHER)
        minilm.write_asymmetric(query=student, document=teacher, out=work / "asymmetric")
        for model in (student, teacher, work / "asymmetric"):
            ours, theirs = minilm.load(model), sentence_transformers.SentenceTransformer(str(model), device="cpu")
            compare(model, ours.encode(TEXTS), theirs.encode(TEXTS))
            compare(model, ours.encode(TEXTS, role="query"), theirs.encode_query(TEXTS))
            compare(model, ours.encode(TEXTS, role="document"), theirs.encode_document(TEXTS))
        for activation in ("Identity", "Sigmoid"):
            first_token = write_encoder(work / activation, STUDENT, activation=activation)
            mean = write_encoder(work / f"mean-{activation}", STUDENT)
            score = Dense(weight=weight[:1], bias=weight[0, :1], activation="Identity")
            pooled = EmbeddingSettings(pooling=("mean",), modules=(score,), max_tokens=12)
            write_scorer(mean, pooled, activation=activation, hidden_size=STUDENT)
            for reranker in (first_token, mean):
                pairs = [(text, "a") for text in TEXTS]
                theirs = sentence_transformers.CrossEncoder(str(reranker), device="cpu")
                compare(reranker, minilm.load(reranker).score_pairs(pairs), theirs.predict(pairs))
    print(f"sentence-transformers {sentence_transformers.__version__}: the same vectors and scores")


def write_encoder(folder: Path, width: int, *, activation: str | None = None) -> Path:
    """A tiny random model, as a reranker if it has an activation."""
    folder.mkdir()
    config = minilm.EncoderConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        num_layers=2,
        num_heads=4,
        intermediate_size=32,
        max_positions=32,
        initializer_range=0.5,
    )
    generator = torch.Generator().manual_seed(width)
    head = None if activation is None else "classification"
    encoder = minilm.Encoder(config, pooler=head is not None)
    encoder.reset(generator)
    model = Model(encoder, None if head is None else new_head(head, config, num_labels=1, generator=generator))
    problem = "single_label_classification" if head is None else "regression"
    minilm.write_model(model, folder, head=head, problem=problem, activation=activation)
    vocabulary = folder.with_suffix(".txt")
    vocabulary.write_text("".join(f"{token}\n" for token in VOCABULARY), encoding="utf-8")
    minilm.Tokenizer.load(vocabulary).save(folder)
    return folder


def compare(folder: Path, found: object, expected: object) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5, err_msg=folder.name)


if __name__ == "__main__":
    main()
