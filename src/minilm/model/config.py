"""Encoder configuration: sizes, dropout rates, family.

In: a preset name or a Hugging Face `config.json` as a mapping.
Out: a frozen `EncoderConfig`, which can be converted back.

A new family needs one row in `FAMILIES`, one name table in `tensor_names.py`, and one parity test.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Literal, cast, get_args

from minilm.errors import DataError, UsageError
from minilm.model.activations import Activation

FamilyName = Literal["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "mpnet"]

# Our field -> Hugging Face key: the one table for reading and writing, except for the `keys` of a family.
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
    "classifier_dropout": "classifier_dropout",
    "layer_norm_eps": "layer_norm_eps",
    "initializer_range": "initializer_range",
    "pad_token_id": "pad_token_id",
}
FeedForwardActivation = Literal["gelu", "gelu_pytorch_tanh", "relu"]
"""What is computed between the two maps of a feed-forward network, by Hugging Face's names."""

_SAME_FUNCTIONS: Mapping[str, FeedForwardActivation] = {"gelu_python": "gelu", "gelu_new": "gelu_pytorch_tanh"}
"""Other names of activations in Hugging Face's library that stand for the same function."""
NUM_BUCKETS = 32
"""Buckets of the distance of two tokens in models with relative positions."""
_ABSOLUTE: Mapping[str, object] = {"position_embedding_type": "absolute"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """The differences between families that share this encoder.

    Attributes:
        architecture: what the names of Hugging Face's classes start with.
        positions_after_padding: positions count from the padding id + 1, as in RoBERTa, not from 0.
        relative_positions: attention scores have a bias that depends on the distance of two tokens, as in MPNet.
        segments: the embeddings have a segment table.
        base_pooler: the model without a head has a pooler.
        pooler: activation of the dense map that a classifier reads.
        dropout_before_pooler: the dropout of a classifier also applies to the first rows before that map.
        classifier_dropout_of_tokens: the dropout of a classifier is also that of a head for tokens.
        activation_in_mlm_head: the mlm head has the activation of the feed-forward networks, not always erf GELU.
        dropout_after_attention: hidden dropout applies after the output map of attention.
        activation_key: the key of the activation of the feed-forward networks.
        keys: our field -> key, where the key is not BERT's; None: there is no such key.
        bert_keys: our fields whose BERT key, where a file has it, wins over `keys` (`attribute_map` in transformers).
        fixed: keys whose only value computed here is this one; they are written.
        defaults: our field -> value of an absent key, where it is not BERT's.
    """

    architecture: str
    positions_after_padding: bool = False
    relative_positions: bool = False
    segments: bool = True
    base_pooler: bool = True
    pooler: Activation = "Tanh"
    dropout_before_pooler: bool = False
    classifier_dropout_of_tokens: bool = True
    dropout_after_attention: bool = True
    activation_in_mlm_head: bool = False
    activation_key: str = "hidden_act"
    keys: Mapping[str, str | None] = field(default_factory=dict)
    bert_keys: tuple[str, ...] = ()
    fixed: Mapping[str, object] = field(default_factory=lambda: _ABSOLUTE)
    defaults: Mapping[str, float] = field(default_factory=dict)

    def hf_keys(self) -> dict[str, str]:
        """Our field -> key of `config.json`."""
        return {ours: theirs for ours, theirs in {**_HF_KEYS, **self.keys}.items() if theirs is not None}

    def keys_in(self, values: Mapping[str, object]) -> dict[str, str]:
        """Our field -> the key that states it in this `config.json`."""
        winning = {ours: _HF_KEYS[ours] for ours in self.bert_keys if values.get(_HF_KEYS[ours]) is not None}
        return {**self.hf_keys(), **winning}


def _roberta(architecture: str) -> Family:
    return Family(
        architecture=architecture,
        positions_after_padding=True,
        dropout_before_pooler=True,
        defaults={"pad_token_id": 1},
    )


FAMILIES: Mapping[FamilyName, Family] = {
    "bert": Family(architecture="Bert", activation_in_mlm_head=True),
    "roberta": _roberta("Roberta"),
    "xlm-roberta": _roberta("XLMRoberta"),
    "camembert": _roberta("Camembert"),
    "distilbert": Family(
        architecture="DistilBert",
        segments=False,
        base_pooler=False,
        pooler="ReLU",
        classifier_dropout_of_tokens=False,
        dropout_after_attention=False,
        activation_in_mlm_head=True,
        activation_key="activation",
        keys={
            "hidden_size": "dim",
            "num_layers": "n_layers",
            "num_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "num_segments": None,
            "hidden_dropout": "dropout",
            "attention_dropout": "attention_dropout",
            "classifier_dropout": "seq_classif_dropout",
            "span_dropout": "qa_dropout",
            "layer_norm_eps": None,
        },
        bert_keys=("hidden_size", "num_layers", "num_heads"),
        fixed={},
        defaults={"classifier_dropout": 0.2, "span_dropout": 0.1},
    ),
    "electra": Family(
        architecture="Electra",
        base_pooler=False,
        pooler="GELU",
        dropout_before_pooler=True,
        keys={"embedding_size": "embedding_size"},
        defaults={"embedding_size": 128},
    ),
    "mpnet": Family(
        architecture="MPNet",
        positions_after_padding=True,
        relative_positions=True,
        segments=False,
        dropout_before_pooler=True,
        keys={"num_segments": None, "classifier_dropout": None},
        fixed={"relative_attention_num_buckets": NUM_BUCKETS, "pad_token_id": 1},
        defaults={"pad_token_id": 1},
    ),
}
COUNTED = tuple(name for name, family in FAMILIES.items() if not family.relative_positions)
"""Families whose positions are counted: they can be teachers, lend their layers, and generate."""
# Alternative names of the same computation in published configurations.
_ALIASES: Mapping[str, FamilyName] = {"minilm": "bert"}

SUPPORTED_VALUES: Mapping[str, object] = {
    "is_decoder": False,
    "add_cross_attention": False,
    "rel_pos_bins": 0,
    "quantization_config": None,
}
"""Keys of a configuration that change the computation, and their only value that is computed here in any family."""

_ACTIVATIONS = ", ".join(map(repr, get_args(FeedForwardActivation)))
_OPTIONAL = ("embedding_size", "classifier_dropout")
_REQUIRED = ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size", "max_positions")
# Our field -> type, smallest and largest value. The upper bounds are far above any published model; they keep products
# of sizes below 2^63 and the time to lay out the modules short.
_RANGES: Mapping[str, tuple[type, float, float]] = {
    "vocab_size": (int, 1, 2**26),
    "hidden_size": (int, 1, 2**17),
    "embedding_size": (int, 1, 2**17),
    "num_layers": (int, 1, 1000),
    "num_heads": (int, 1, 2**17),
    "intermediate_size": (int, 1, 2**20),
    "max_positions": (int, 1, 2**18),
    "num_segments": (int, 1, 2**18),
    "hidden_dropout": (float, 0, 1),
    "attention_dropout": (float, 0, 1),
    "classifier_dropout": (float, 0, 1),
    "span_dropout": (float, 0, 1),
    "layer_norm_eps": (float, 0, 1),
    "initializer_range": (float, 0, 100),
    "pad_token_id": (int, 0, 2**26),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Sizes of a post-norm BERT-style encoder.

    `attention_dropout` is the published value, preserved in the files. Training ignores it and applies
    `train.attention_dropout` of the recipe (default 0), because fused attention kernels do not support dropout and a
    run must be equivalent on every device.

    Attributes:
        embedding_size: width of the embeddings, which a linear map extends to `hidden_size`; None: `hidden_size`,
            without a map. Only ELECTRA has another one.
        num_segments: rows of the segment table; 0 in families without segments.
        classifier_dropout: dropout of a classification head; None: `hidden_dropout`.
        span_dropout: dropout of a question answering head.
        hidden_act: activation of the feed-forward networks; "gelu" is that with erf.
    """

    vocab_size: int = 30522
    hidden_size: int
    embedding_size: int | None = None
    num_layers: int
    num_heads: int = 12
    intermediate_size: int
    max_positions: int = 512
    num_segments: int = 2
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float | None = None
    span_dropout: float = 0.0
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int = 0
    family: FamilyName = "bert"
    hidden_act: FeedForwardActivation = "gelu"

    def __post_init__(self) -> None:
        """Check the type and range of each value, and the rules between them.

        Raises:
            UsageError: a value is out of range, num_heads does not divide the width, the padding id is not a valid id,
                or no position is left for a token.
        """
        for name in _RANGES:
            expected = self._expected(name)
            if expected:
                raise UsageError(f"{name} is {getattr(self, name)!r:.60}; expected {expected}")
        if self.hidden_act not in get_args(FeedForwardActivation):
            raise UsageError(f"hidden_act is {self.hidden_act!r:.80}; expected {_ACTIVATIONS}")
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

    def _expected(self, name: str) -> str | None:
        """What is expected of a field whose value is not allowed."""
        value, family = getattr(self, name), FAMILIES[self.family]
        if name == "num_segments" and not family.segments:
            return f"0, because {self.family} models have no segments" if value else None
        if name in _OPTIONAL and value is None:
            return None
        if name == "embedding_size" and name not in family.keys:
            return f"None, because embeddings of {self.family} models have the width hidden_size"
        return _out_of_range(name, value)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings before they enter the first layer's width."""
        return self.embedding_size or self.hidden_size

    @property
    def target_segment(self) -> int:
        """Segment id of the targets of sequence-to-sequence models: 1 where the model has it."""
        return max(0, min(1, self.num_segments - 1))

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
        name = require_family(values, where=where)
        family = FAMILIES[name]
        keys = family.keys_in(values)
        _reject_other_computations(values, family, where)
        missing = [keys[ours] for ours in _REQUIRED if values.get(keys[ours]) is None]
        if missing:
            raise DataError(f"{where}: missing {', '.join(missing)}; is this the configuration of an encoder?")
        require_ranges(values, where=where)
        found = {ours: values[theirs] for ours, theirs in keys.items() if values.get(theirs) is not None}
        found = {**family.defaults, **found}
        if found.get("embedding_size") == found["hidden_size"]:
            del found["embedding_size"]
        if not family.segments:
            found["num_segments"] = 0
        if (activation := values.get(family.activation_key)) is not None:
            found["hidden_act"] = _SAME_FUNCTIONS.get(str(activation), activation)
        try:
            return cls(**cast("dict[str, Any]", found), family=name)
        except UsageError as error:
            raise DataError(f"{where}: {error}") from None

    @staticmethod
    def is_family(values: Mapping[str, object]) -> bool:
        """Whether a `config.json` is of a supported family."""
        return _family_name(values) is not None

    def to_hf(self) -> dict[str, object]:
        """The mapping for `config.json`; the inverse of `from_hf`."""
        family = FAMILIES[self.family]
        ours = {**asdict(self), "embedding_size": self.embedding_width}
        if "classifier_dropout" in family.defaults and self.classifier_dropout is None:
            ours["classifier_dropout"] = self.hidden_dropout
        return {
            "architectures": [f"{family.architecture}Model"],
            "model_type": self.family,
            **family.fixed,
            family.activation_key: self.hidden_act,
            **{theirs: ours[name] for name, theirs in family.hf_keys().items() if ours[name] is not None},
        }

    def num_parameters(self, *, pooler: bool | None = None) -> int:
        """Number of weights of the encoder, with or without the pooler; None: as in the family's model without head."""
        family, width, inner, narrow = (
            FAMILIES[self.family],
            self.hidden_size,
            self.intermediate_size,
            self.embedding_width,
        )
        tables = (self.vocab_size + self.max_positions + self.num_segments) * narrow + 2 * narrow
        tables += (narrow + 1) * width if narrow != width else 0
        tables += NUM_BUCKETS * self.num_heads if family.relative_positions else 0
        layer = 4 * width * (width + 1) + 2 * width * inner + inner + width + 4 * width
        pooler = family.base_pooler if pooler is None else pooler
        return tables + self.num_layers * layer + (width * (width + 1) if pooler else 0)


def _family_name(values: Mapping[str, object]) -> FamilyName | None:
    """The family by `model_type`, else by `architectures`; with neither `bert`, as in the first files."""
    if values.get("model_type") is None:
        classes = values.get("architectures") or ["BertModel"]
        first = classes[0] if isinstance(classes, list) else classes
        return next(
            (name for name, one in FAMILIES.items() if re.match(f"{one.architecture}(For|Model)", str(first))), None
        )
    name = str(values["model_type"])
    name = _ALIASES.get(name, name)
    return cast("FamilyName", name) if name in FAMILIES else None


def require_family(values: Mapping[str, object], *, where: str) -> FamilyName:
    """The family of a `config.json`.

    Raises:
        DataError: it is not in `FAMILIES`.
    """
    name = _family_name(values)
    if name is None:
        key = "architectures" if values.get("model_type") is None else "model_type"
        missing = "model_type is missing, and " if key == "architectures" else ""
        raise DataError(
            f"{where}: {missing}{key} {values[key]!r:.60}; expected {'model_type ' if missing else ''}one of "
            f"{', '.join(FAMILIES)} (other encoders are teachers only: minilm distill)"
        )
    return name


def require_ranges(values: Mapping[str, object], *, where: str) -> None:
    """Check the type and range of each number of a `config.json`; absent keys and null are not checked.

    Raises:
        DataError: a value is out of range, or the family is not in `FAMILIES`.
    """
    for name, key in FAMILIES[require_family(values, where=where)].keys_in(values).items():
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


def _reject_other_computations(values: Mapping[str, object], family: Family, where: str) -> None:
    """Raise if the file requests something that this encoder would silently compute differently."""
    fixed = {**family.fixed, **SUPPORTED_VALUES}
    if "embedding_size" not in family.keys:
        fixed["embedding_size"] = values.get(family.keys_in(values)["hidden_size"])
    for key, supported in fixed.items():
        found = values.get(key)
        if found is not None and found != supported:
            raise DataError(f"{where}: {key} is {found!r:.80}; this encoder supports {supported!r} only")
    found = values.get(family.activation_key)
    if found is not None and found not in (*get_args(FeedForwardActivation), *_SAME_FUNCTIONS):
        raise DataError(f"{where}: {family.activation_key} is {found!r:.80}; this encoder supports {_ACTIVATIONS}")


def _bert(hidden_size: int, num_layers: int) -> EncoderConfig:
    return EncoderConfig(hidden_size=hidden_size, num_layers=num_layers, intermediate_size=4 * hidden_size)


PRESETS: Mapping[str, EncoderConfig] = {
    "L12-H384": _bert(384, 12),
    "L6-H384": _bert(384, 6),
    "L6-H768": _bert(768, 6),
    "BERT-Base": _bert(768, 12),
}


def with_vocabulary_of(config: EncoderConfig, other: EncoderConfig) -> EncoderConfig:
    """`config` with the values of `other` that belong to tokenizer or family (a student reads its teacher's ids).

    The activation is that of `other` too, whose layers may be copied. So is the width of the embeddings if the hidden
    widths are equal; else it is the hidden width.
    """
    return replace(
        config,
        vocab_size=other.vocab_size,
        pad_token_id=other.pad_token_id,
        max_positions=other.max_positions,
        num_segments=other.num_segments,
        family=other.family,
        layer_norm_eps=other.layer_norm_eps,
        hidden_act=other.hidden_act,
        embedding_size=other.embedding_size if config.hidden_size == other.hidden_size else None,
        classifier_dropout=other.classifier_dropout,
        span_dropout=other.span_dropout,
    )


assert set(FAMILIES) == set(get_args(FamilyName))


def require_absolute(config: EncoderConfig) -> None:
    """Require a model that can be trained and run as sequence-to-sequence.

    Raises:
        UsageError: the family has relative positions, which are not defined for pseudo tokens.
    """
    if config.family not in COUNTED:
        raise UsageError(
            f"{config.family} models have relative positions and cannot generate; use a model of one of "
            f"{', '.join(COUNTED)}"
        )
