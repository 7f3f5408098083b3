"""What the checks on a GPU compute with: sizes, random weights and documents, objectives of the training loop.

In: a size. Out: models, documents, objectives of the training loop; those of distillations are in `distillations.py`.
All weights and tokens are random, so that nothing but this repository is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from minilm.finetune.objective import FinetuneObjective
from minilm.finetune.text import ClassificationTask
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder, Relations
from minilm.model.heads import Model, new_head
from minilm.model.metadata import HeadName
from minilm.tasks.text.glue import GLUE
from minilm.tasks.text.rows import TextRow
from minilm.text.tokenizer import Tokenizer

CPU = torch.device("cpu")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is computed: what keeps a GPU busy, or as little as shows that the script runs.

    Attributes:
        name: of the size.
        teacher: its shape, without dropout, as the student's.
        student: its shape.
        relation_heads: R.
        sequences: of a comparison with the CPU.
        lengths: of documents whose rates are measured; the last is the longest.
        tokens: of a microbatch whose rates are measured.
        seconds: that a rate is measured for.
    """

    name: str
    teacher: EncoderConfig
    student: EncoderConfig
    relation_heads: int
    sequences: int
    lengths: tuple[int, ...]
    tokens: int
    seconds: float


def _tiny(width: int, layers: int) -> EncoderConfig:
    sizes = {"hidden_size": width, "num_layers": layers, "num_heads": 2, "intermediate_size": 2 * width}
    return EncoderConfig(vocab_size=200, max_positions=64, hidden_dropout=0.0, initializer_range=0.2, **sizes)


FULL = Size(
    name="full",
    teacher=replace(EncoderConfig.preset("BERT-Base"), hidden_dropout=0.0),
    student=replace(EncoderConfig.preset("L6-H384"), hidden_dropout=0.0),
    relation_heads=48,
    sequences=48,
    lengths=(128, 512),
    tokens=2**17,
    seconds=12.0,
)
TINY = Size(
    name="tiny",
    teacher=_tiny(32, 2),
    student=_tiny(16, 2),
    relation_heads=4,
    sequences=6,
    lengths=(16, 40),
    tokens=256,
    seconds=0.1,
)


def random_relations(tokens: int, width: int, dtype: torch.dtype, place: torch.device) -> Relations:
    """Of one head, `[T, 1, E]`, on a device."""
    draw = torch.Generator(place).manual_seed(width)
    query, key, value = (torch.randn(tokens, 1, width, generator=draw, device=place).to(dtype) for _ in range(3))
    return Relations(query=query, key=key, value=value)


@dataclass(frozen=True, kw_only=True)
class Documents:
    """A corpus in memory, as objectives and caches read shards."""

    token_ids: Sequence[np.ndarray]

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.token_ids)

    def __getitem__(self, number: int) -> np.ndarray:
        """The tokens of a document, int32."""
        return self.token_ids[number]

    @property
    def lengths(self) -> np.ndarray:
        """Of the documents, int64."""
        return np.array([len(ids) for ids in self.token_ids])

    @property
    def manifest(self) -> SimpleNamespace:
        """Of its manifest, how many tokens there are."""
        return SimpleNamespace(tokens=int(self.lengths.sum()))


@dataclass(frozen=True, kw_only=True)
class Cases:
    """A size on a device; the folder is for models that are read from files."""

    size: Size
    device: torch.device
    folder: Path

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """One id for each word `w0`, `w1`, ..."""
        words = [f"w{number}" for number in range(self.size.student.vocab_size - len(_SPECIAL))]
        file = self.folder / "vocab.txt"
        file.write_text("\n".join([*_SPECIAL, *words]), encoding="utf-8")
        return Tokenizer.load(file)

    def mixed_lengths(self, count: int) -> list[int]:
        """Lengths as of text: many short documents, few long ones, in ascending order."""
        longest = self.size.lengths[-1]
        return sorted(np.geomspace(3, longest, count).astype(int).tolist())

    def sequences(self, lengths: Sequence[int]) -> list[np.ndarray]:
        """Random documents with the tokens that frame them, int32."""
        draw = np.random.default_rng(len(lengths))
        frame = self.tokenizer.cls_id, self.tokenizer.sep_id
        found = []
        for length in lengths:
            ids = draw.integers(len(_SPECIAL), self.size.student.vocab_size, size=length, dtype=np.int32)
            ids[0], ids[-1] = frame
            found.append(ids)
        return found

    def documents(self, lengths: Sequence[int]) -> Documents:
        """The same as a corpus."""
        return Documents(token_ids=self.sequences(lengths))

    def encoder(self, config: EncoderConfig | None = None) -> Encoder:
        """Of the student's shape, on the CPU, always with the same weights."""
        encoder = Encoder(config or self.size.student)
        encoder.reset(torch.Generator().manual_seed(0))
        return encoder.eval()

    def model(self, head: HeadName) -> Model:
        """The same with a head, on the CPU."""
        encoder = self.encoder()
        return Model(encoder, new_head(head, encoder.config, num_labels=2, generator=torch.Generator().manual_seed(1)))

    def generator(self) -> Model:
        """The same for targets: scores differ enough that rounding creates no ties."""
        model = self.model("mlm").requires_grad_(False)
        model.head.norm.weight.fill_(8.0)
        return model

    def finetuning(self, lengths: Sequence[int], *, place: torch.device, batch: int, tokens: int) -> FinetuneObjective:
        """Classification of texts of these lengths."""
        draw = np.random.default_rng(len(lengths))
        rows = [
            TextRow(
                text=" ".join(f"w{number}" for number in draw.integers(100, size=max(1, length - 2))),
                text_pair=None,
                label=index % 2,
                id=str(index),
                location="",
            )
            for index, length in enumerate(lengths)
        ]
        task = ClassificationTask(GLUE["sst-2"], rows, {}, self.tokenizer, max_tokens=max(lengths))
        model = copy.deepcopy(self.model("classification"))
        task.prepare(model)
        return FinetuneObjective(model.to(place), task, batch_size=batch, tokens_per_batch=tokens, seed=1)
