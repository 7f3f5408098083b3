"""Encoder configuration: sizes, dropout rates, family.

In: a preset name or a Hugging Face `config.json` as a mapping.
Out: a frozen `EncoderConfig`, which can be converted back.

A new family needs one row in `FAMILIES`, one name table in `tensor_names.py`, and one parity test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from typing import Literal, cast, get_args

from minilm.errors import DataError, UsageError

FamilyName = Literal["bert", "roberta", "xlm-roberta"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """The differences between families that share this encoder.

    RoBERTa counts positions from the padding id + 1; BERT counts from 0.
    """

    architecture: str
    positions_after_padding: bool


FAMILIES: Mapping[FamilyName, Family] = {
    "bert": Family(architecture="Bert", positions_after_padding=False),
    "roberta": Family(architecture="Roberta", positions_after_padding=True),
    "xlm-roberta": Family(architecture="XLMRoberta", positions_after_padding=True),
}
# Alternative names of the same computation in published configurations.
_ALIASES: Mapping[str, FamilyName] = {"minilm": "bert", "electra": "bert"}

SUPPORTED_VALUES: Mapping[str, object] = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "rel_pos_bins": 0,
}
"""Keys of a configuration that change the computation, and their only value that is computed here."""

# Our field -> Hugging Face key. The one table for reading and writing.
_HF_KEYS: Mapping[str, str] = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "num_segments": "type_vocab_size",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "layer_norm_eps": "layer_norm_eps",
    "initializer_range": "initializer_range",
    "pad_token_id": "pad_token_id",
}
_REQUIRED = ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size", "max_positions")
# Our field -> type, smallest and largest value. The upper bounds are far above any published model; they keep products
# of sizes below 2^63 and the time to lay out the modules short.
_RANGES: Mapping[str, tuple[type, float, float]] = {
    "vocab_size": (int, 1, 2**26),
    "hidden_size": (int, 1, 2**17),
    "num_layers": (int, 1, 1000),
    "num_heads": (int, 1, 2**17),
    "intermediate_size": (int, 1, 2**20),
    "max_positions": (int, 1, 2**18),
    "num_segments": (int, 1, 2**18),
    "hidden_dropout": (float, 0, 1),
    "attention_dropout": (float, 0, 1),
    "layer_norm_eps": (float, 0, 1),
    "initializer_range": (float, 0, 100),
    "pad_token_id": (int, 0, 2**26),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Sizes of a post-norm BERT-style encoder (erf GELU).

    `attention_dropout` is the published value, preserved in the files. Training ignores it and applies
    `train.attention_dropout` of the recipe (default 0), because fused attention kernels do not support dropout and a
    run must be equivalent on every device.
    """

    vocab_size: int = 30522
    hidden_size: int
    num_layers: int
    num_heads: int = 12
    intermediate_size: int
    max_positions: int = 512
    num_segments: int = 2
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int = 0
    family: FamilyName = "bert"

    def __post_init__(self) -> None:
        """Check the type and range of each value, and the rules between them.

        Raises:
            UsageError: a value is out of range, num_heads does not divide the width, the padding id is not a valid id,
                or no position is left for a token.
        """
        for name in _RANGES:
            if expected := _out_of_range(name, getattr(self, name)):
                raise UsageError(f"{name} is {getattr(self, name)!r:.60}; expected {expected}")
        if self.hidden_size % self.num_heads:
            raise UsageError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}; change one of the two"
            )
        if self.pad_token_id >= self.vocab_size:
            raise UsageError(f"pad_token_id is {self.pad_token_id}; expected an id below vocab_size {self.vocab_size}")
        if self.max_tokens < 1:
            raise UsageError(
                f"max_positions is {self.max_positions}; expected more than {self.first_position}, because a "
                f"{self.family} model counts positions from pad_token_id + 1"
            )

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def target_segment(self) -> int:
        """Segment id of the targets of sequence-to-sequence models: 1 where the model has it."""
        return min(1, self.num_segments - 1)

    @property
    def first_position(self) -> int:
        """Position id of the first token of a sequence."""
        return self.pad_token_id + 1 if FAMILIES[self.family].positions_after_padding else 0

    @property
    def max_tokens(self) -> int:
        """Max sequence length of the position table."""
        return self.max_positions - self.first_position

    @classmethod
    def preset(cls, name: str) -> EncoderConfig:
        """The published configuration called `name`.

        Raises:
            UsageError: the preset is unknown; the message suggests the closest one.
        """
        if name not in PRESETS:
            close = get_close_matches(name, PRESETS, n=1, cutoff=0.4)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"unknown preset {name!r}; expected one of {', '.join(PRESETS)}{hint}")
        return PRESETS[name]

    @classmethod
    def from_hf(cls, values: Mapping[str, object], *, where: str = "config.json") -> EncoderConfig:
        """Read the mapping of a Hugging Face `config.json`.

        Raises:
            DataError: the architecture differs, a key is missing, or a setting is not supported.
        """
        model_type = str(values.get("model_type", "bert"))
        model_type = _ALIASES.get(model_type, model_type)
        if model_type not in FAMILIES:
            raise DataError(f"{where}: model_type {model_type!r}; expected one of {', '.join(FAMILIES)}")
        _reject_other_computations(values, where)
        missing = [_HF_KEYS[name] for name in _REQUIRED if values.get(_HF_KEYS[name]) is None]
        if missing:
            raise DataError(f"{where}: missing {', '.join(missing)}; is this the configuration of an encoder?")
        require_ranges(values, where=where)
        found = {ours: values[theirs] for ours, theirs in _HF_KEYS.items() if values.get(theirs) is not None}
        if FAMILIES[cast("FamilyName", model_type)].positions_after_padding:
            found.setdefault("pad_token_id", 1)  # default of these families
        try:
            return cls(**cast("dict[str, int]", found), family=cast("FamilyName", model_type))
        except UsageError as error:
            raise DataError(f"{where}: {error}") from None

    @staticmethod
    def is_family(values: Mapping[str, object]) -> bool:
        """Whether a `config.json` is of a supported family."""
        name = str(values.get("model_type", "bert"))
        return name in FAMILIES or name in _ALIASES

    def to_hf(self) -> dict[str, object]:
        """The mapping for `config.json`; the inverse of `from_hf`."""
        ours = asdict(self)
        values: dict[str, object] = {theirs: ours[name] for name, theirs in _HF_KEYS.items()}
        return {
            "architectures": [f"{FAMILIES[self.family].architecture}Model"],
            "model_type": self.family,
            "hidden_act": "gelu",
            "position_embedding_type": "absolute",
            **values,
        }

    def num_parameters(self, *, pooler: bool = True) -> int:
        """Number of weights of the encoder, with or without the pooler."""
        width, inner = self.hidden_size, self.intermediate_size
        tables = (self.vocab_size + self.max_positions + self.num_segments) * width + 2 * width
        layer = 4 * width * (width + 1) + 2 * width * inner + inner + width + 4 * width
        return tables + self.num_layers * layer + (width * (width + 1) if pooler else 0)


def require_ranges(values: Mapping[str, object], *, where: str) -> None:
    """Check the type and range of each number of a `config.json`; absent keys and null are not checked.

    Raises:
        DataError: a value is out of range.
    """
    for name, key in _HF_KEYS.items():
        value = values.get(key)
        if value is not None and (expected := _out_of_range(name, value)):
            raise DataError(f"{where}: {key} is {value!r:.60}; expected {expected}")


def _out_of_range(name: str, value: object) -> str | None:
    """What is expected of our field `name`, if `value` has another type or is out of range."""
    kind, least, most = _RANGES[name]
    numbers = int if kind is int else (int, float)
    if not isinstance(value, bool) and isinstance(value, numbers) and least <= value <= most:
        return None
    return f"a {'whole ' if kind is int else ''}number from {least:g} to {most if kind is int else format(most, 'g')}"


def _reject_other_computations(values: Mapping[str, object], where: str) -> None:
    """Raise if the file requests something that this encoder would silently compute differently."""
    for key, supported in {**SUPPORTED_VALUES, "embedding_size": values.get("hidden_size")}.items():
        found = values.get(key)
        if found is not None and found != supported:
            raise DataError(f"{where}: {key} is {found!r}; this encoder supports {supported!r} only")


def _bert(hidden_size: int, num_layers: int) -> EncoderConfig:
    return EncoderConfig(hidden_size=hidden_size, num_layers=num_layers, intermediate_size=4 * hidden_size)


PRESETS: Mapping[str, EncoderConfig] = {
    "L12-H384": _bert(384, 12),
    "L6-H384": _bert(384, 6),
    "L6-H768": _bert(768, 6),
    "BERT-Base": _bert(768, 12),
}


def with_vocabulary_of(config: EncoderConfig, other: EncoderConfig) -> EncoderConfig:
    """`config` with all tokenizer-dependent values of `other` (a student reads its teacher's ids)."""
    return replace(
        config,
        vocab_size=other.vocab_size,
        pad_token_id=other.pad_token_id,
        max_positions=other.max_positions,
        num_segments=other.num_segments,
        family=other.family,
        layer_norm_eps=other.layer_norm_eps,
    )


assert set(FAMILIES) == set(get_args(FamilyName))
