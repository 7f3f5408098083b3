"""Tiny random models of transformers, their padded runs, and packed batches of the same rows."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from minilm.model.packing import pack

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'minilm[hf]'")

LENGTHS = (9, 1, 14, 14, 5, 2)
SIZES = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # far from linear, so that anything misplaced shows
}


def relative_difference(found, expected):
    """The largest difference, of the largest number that is expected."""
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


@pytest.fixture(scope="session", autouse=True)
def quiet_transformers():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def sizes():
    return dict(SIZES)


@pytest.fixture(scope="session")
def ids():
    """Token ids of six sequences; none is a special token."""
    generator = np.random.default_rng(0)
    return [generator.integers(5, 120, size=length) for length in LENGTHS]


@pytest.fixture(scope="session")
def randomized():
    """Give every weight of a model, biases and norms included, a random value."""

    def fill(model, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                centre = 1.0 if weight.dim() == 1 and bool((weight == 1).all()) else 0.0
                weight.copy_(centre + 0.3 * torch.randn(weight.shape, generator=generator))
        return model.eval()

    return fill


@pytest.fixture
def save(tmp_path, sizes, randomized):
    """Save a tiny random model of an architecture and return its folder."""
    transformers = pytest.importorskip("transformers")

    def make(name, **settings):
        config_class = getattr(transformers, f"{name}Config", None)
        if config_class is None:
            pytest.skip(f"this release of transformers has no {name}")
        transformers.set_seed(0)
        model = transformers.AutoModel.from_config(config_class(**{**sizes, **settings}))
        randomized(model).save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def own_projections(monkeypatch):
    """Query, key, value `[N, H, D]` of every layer: eager attention of transformers, with its own masks."""

    def run(folder, text):
        model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        module = inspect.getmodule(type(model))
        eager, seen = module.eager_attention_forward, []

        def watching(layer, query, key, value, *rest, **settings):
            seen.append([part[0].transpose(0, 1) for part in (query, key, value)])
            return eager(layer, query, key, value, *rest, **settings)

        with monkeypatch.context() as patch, torch.no_grad():
            patch.setattr(module, "eager_attention_forward", watching)
            model(input_ids=torch.from_numpy(text)[None])
        return seen

    return run


@pytest.fixture(scope="session")
def write_encoder():
    """`write_encoder(folder, ...)`: a tiny random BERT of transformers whose tokenizer keeps upper case."""

    def write(folder, *, vocabulary, width, seed=0, max_tokens=32):
        torch.manual_seed(seed)
        config = transformers.BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=24,
            max_position_embeddings=max_tokens,
            initializer_range=0.5,
        )
        transformers.BertModel(config).save_pretrained(folder)
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary))
        tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=False)
        tokenizer.save_pretrained(folder)
        return folder

    return write


@pytest.fixture(scope="session")
def padded():
    """The sequences as transformers expects them: `input_ids`, `attention_mask`, `token_type_ids` [B, S]."""

    def pad(sequences, segments=None, pad_id=0):
        longest = max(map(len, sequences))
        rows = torch.full((len(sequences), longest), pad_id)
        mask, kinds = torch.zeros_like(rows), torch.zeros_like(rows)
        for row, sequence in enumerate(sequences):
            rows[row, : len(sequence)] = torch.from_numpy(np.asarray(sequence))
            mask[row, : len(sequence)] = 1
            if segments is not None:
                kinds[row, : len(sequence)] = torch.from_numpy(np.asarray(segments[row]))
        return {"input_ids": rows, "attention_mask": mask, "token_type_ids": kinds}

    return pad


@pytest.fixture(scope="session")
def packed(ids):
    """The six sequences packed."""

    def make(segments=None):
        return pack(ids, segments=segments)

    return make
