"""Model metadata from the configuration files: sizes, head, labels. Does not need torch.

In: a Hugging Face folder or Microsoft's `.bin` with `…-config.json` next to it; the configuration may be elsewhere.
Out: its configuration, the head it was saved with, its label names, what its scores mean, checksums.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast, get_args

from minilm.errors import DataError
from minilm.files.json import read_json
from minilm.files.regular import sha256_file, sha256_text
from minilm.files.sentence_modules import CROSS_ENCODER, MODEL_FILE, read_modules, transformer_folder
from minilm.model.activations import Activation, activation_at, activation_path
from minilm.model.config import EncoderConfig

HeadName = Literal["mlm", "classification", "span", "tokens"]
LABELLED: tuple[HeadName, ...] = ("classification", "tokens")
"""Heads with one score for each label of `id2label`."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights, each also in shards with an index, in the order of Hugging Face's library."""
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""What the scores of a classification head are: one label of several, each label or not, one number."""
_CROSS_ENCODER = "sentence_transformers"  # what `config.json` says about a cross-encoder
_ACTIVATION = "activation_fn"
_OLD_ACTIVATION = "sbert_ce_default_activation_function"  # of cross-encoders before sentence-transformers 4

ARCHITECTURES: Mapping[str, HeadName | None] = {
    "ElectraForPreTraining": None,  # tells replaced tokens from others: no masked language model
    "ForMaskedLM": "mlm",
    "ForPreTraining": "mlm",
    "ForSequenceToSequence": "mlm",  # Microsoft's s2s-ft
    "ForSequenceClassification": "classification",
    "ForQuestionAnswering": "span",
    "ForTokenClassification": "tokens",
}
_UNNAMED_LABELS = 2  # labels where neither `id2label` nor `num_labels` is stated, as in Hugging Face's library
_MAX_LABELS = 2**20  # far above any published model


def read_config(path: Path | str, *, config: Path | None = None) -> EncoderConfig:
    """The configuration of the model at `path` (folder or `.bin`), or the one at `config` (file or folder).

    Raises:
        DataError: there is no configuration file, or the encoder does not support it.
    """
    file = config_file(Path(path), config)
    return EncoderConfig.from_hf(read_json(file), where=str(file))


def read_labels(path: Path | str, *, config: Path | None = None) -> tuple[str, ...]:
    """Label names in id order from `id2label`, or none."""
    file = config_file(Path(path), config)
    values = read_json(file).get("id2label") or {}
    if not isinstance(values, dict) or set(values) != {str(index) for index in range(len(values))}:
        raise DataError(f"{file}: id2label must map the ids 0, 1, ... to names")
    names = tuple(str(values[str(index)]) for index in range(len(values)))
    count = _num_labels(file)
    if names and count not in (None, len(names)):
        raise DataError(
            f"{file}: num_labels is {count} and id2label has {len(names)}; transformers 4 takes id2label, "
            "transformers 5 num_labels: remove the wrong one"
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{file}: id2label has the name {twice!r:.60} more than once; give each id its own name")
    return names


def label_names(path: Path | str, *, config: Path | None = None) -> tuple[str, ...]:
    """Names of the labels of a head in id order: those of `id2label`, else `LABEL_0`, ..., as many as `num_labels`.

    Raises:
        DataError: `num_labels` is not a number of labels, or `id2label` has another number.
    """
    count = _num_labels(config_file(Path(path), config)) or _UNNAMED_LABELS
    return read_labels(path, config=config) or tuple(f"LABEL_{index}" for index in range(count))


def _num_labels(file: Path) -> int | None:
    count = read_json(file).get("num_labels")
    if count is None or (type(count) is int and 1 <= count <= _MAX_LABELS):
        return count
    raise DataError(f"{file}: num_labels is {count!r:.60}; expected a whole number from 1 to {_MAX_LABELS}")


def num_scores(path: Path | str, head: HeadName | None, *, config: Path | None = None) -> int:
    """Scores of a head for each row: one for each label, a start and an end; 0 without any of these."""
    if head in LABELLED:
        return len(label_names(path, config=config))
    return 2 if head == "span" else 0


def read_problem(path: Path | str, *, config: Path | None = None) -> ProblemType:
    """`problem_type` of a classifier; without it, as in Hugging Face's library, one output is a number.

    Raises:
        DataError: the value is unknown, or does not fit the number of outputs.
    """
    file = config_file(Path(path), config)
    stated, outputs = read_json(file).get("problem_type"), len(label_names(path, config=config))
    if stated is None:
        return "regression" if outputs == 1 else "single_label_classification"
    if stated not in get_args(ProblemType):
        known = ", ".join(map(repr, get_args(ProblemType)))
        raise DataError(f"{file}: problem_type is {stated!r:.60}; expected one of {known}, or remove the key")
    if stated != "multi_label_classification" and (stated == "regression") != (outputs == 1):
        expected = "one label to predict a number" if stated == "regression" else "at least two labels"
        raise DataError(
            f"{file}: problem_type is {stated!r} and the number of labels is {outputs}; expected {expected}"
        )
    return cast("ProblemType", stated)


def is_cross_encoder(path: Path) -> bool:
    """Whether the files of a folder say that sentence-transformers made it to score or classify pairs."""
    outer = path / MODEL_FILE
    return _scores_pairs(read_json(outer) if outer.is_file() else {}, read_json(config_file(path)))


def _scores_pairs(settings: Mapping[str, object], config: Mapping[str, object]) -> bool:
    """The same of the values of both files: of the whole model, and of its encoder."""
    is_typed = settings.get("model_type") == CROSS_ENCODER
    return is_typed or isinstance(config.get(_CROSS_ENCODER), dict) or config.get(_OLD_ACTIVATION) is not None


def read_activation(path: Path, problem: ProblemType) -> Activation:
    """What a cross-encoder of sentence-transformers applies to its one score: what its files state, else a sigmoid.

    Other models have the identity.

    Raises:
        DataError: the activation is not computed here, or does not fit the probabilities of several labels.
    """
    outer, file = path / MODEL_FILE, config_file(path, None)
    settings = read_json(outer) if outer.is_file() else {}
    config = read_json(file)
    inner = config.get(_CROSS_ENCODER)
    inner = inner if isinstance(inner, dict) else None
    typed = settings.get("model_type") == CROSS_ENCODER
    if typed and settings.get(_ACTIVATION) is not None and read_modules(path):
        where, key, stated = outer, _ACTIVATION, settings[_ACTIVATION]
    elif inner is not None and _ACTIVATION in inner:
        where, key, stated = file, _ACTIVATION, inner[_ACTIVATION]
    else:
        where, key, stated = file, _OLD_ACTIVATION, config.get(_OLD_ACTIVATION)
    if stated is None:
        return "Sigmoid" if _scores_pairs(settings, config) and problem == "regression" else "Identity"
    if problem == "regression":
        return activation_at(stated, key=key, file=where)
    if problem == "single_label_classification":
        remedy = " with several labels of which one applies; if each applies or not, set problem_type of config.json"
        activation_at(stated, key=key, file=where, among=("Identity", "Softmax"), remedy=remedy)
    else:
        activation_at(stated, key=key, file=where, among=("Identity", "Sigmoid"), remedy=" with several labels")
    return "Identity"


def activation_values(activation: Activation) -> dict[str, object]:
    """What `config.json` of a cross-encoder says about the activation of its one score."""
    path = activation_path(activation)
    return {_CROSS_ENCODER: {_ACTIVATION: path}, _OLD_ACTIVATION: path}


def saved_head(path: Path | str, *, config: Path | None = None) -> HeadName | None:
    """The head that `architectures` of the configuration states, if any."""
    names = read_json(config_file(Path(path), config)).get("architectures")
    if not isinstance(names, list) or not names:
        return None
    return next((head for suffix, head in ARCHITECTURES.items() if str(names[0]).endswith(suffix)), None)


def untied_output(path: Path | str, *, config: Path | None = None) -> str:
    """Why the mlm head of a model cannot be read; "" if it can, or there is none.

    With `tie_word_embeddings: false` its output table is not the word table, but the two are one here.
    """
    file = config_file(Path(path), config)
    if read_json(file).get("tie_word_embeddings") is not False or saved_head(path, config=config) != "mlm":
        return ""
    return (
        f"{file}: tie_word_embeddings is false: the mlm head has an output table of its own, which is not supported; "
        "use a model whose output table is its word table, or one without an mlm head"
    )


def model_checksums(path: Path | str, *, config: Path | None = None) -> dict[str, str]:
    """SHA-256 of the configuration and of the weights at `path`, independent of file names.

    Raises:
        DataError: the configuration or the weights are missing.
    """
    path = transformer_folder(Path(path))
    return {"config": sha256_file(config_file(path, config)), "weights": weights_checksum(path)}


def weights_checksum(path: Path) -> str:
    """SHA-256 of the weights of an encoder's folder or file; raises DataError if there are none."""
    return sha256_text("".join(sha256_file(file) for file in weight_files(path)[1]))


def weight_files(path: Path) -> tuple[Path, list[Path]]:
    """The file to mention in messages about the weights at `path`, and the files that hold them.

    Raises:
        DataError: there are no weights, or an index is damaged or names a file that is not in the folder.
    """
    if is_microsoft(path):
        return path, [path]
    for name in WEIGHTS:
        single, index = path / name, path / f"{name}.index.json"
        if single.is_file():
            return single, [single]
        if index.is_file():
            return index, _shards(index)
    raise DataError(f"{path}: no weights; expected model.safetensors or pytorch_model.bin, or its .index.json")


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{index}: weight_map must map tensor names to file names")
    if any(Path(name).name != name for name in names):
        raise DataError(f"{index}: a shard is outside the folder; expected plain file names")
    return [index.with_name(name) for name in sorted(set(names))]


def is_microsoft(path: Path) -> bool:
    """Whether a model is a single `.bin` file."""
    return path.is_file()


def config_file(path: Path, config: Path | None = None) -> Path:
    """`config`; else `config.json` of a folder, or `<name>-config.json` or `config.json` next to a `.bin`."""
    if not path.exists():
        raise DataError(f"{path}: no such model; expected a model folder or a .bin file")
    path = transformer_folder(path)
    if config is not None:
        return config / "config.json" if config.is_dir() else config
    candidates = (
        [path.with_name(f"{path.stem}-config.json"), path.with_name("config.json")]
        if is_microsoft(path)
        else [path / "config.json"]
    )
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    near = dict.fromkeys([path / "model", *_children(path), *_children(path / "model")])
    inner = [str(folder) for folder in near if _is_model(folder)]
    hint = f"; pick one of: {', '.join(inner)}" if len(inner) > 1 else f"; use {inner[0]}" if inner else ""
    expected = " or ".join(str(candidate) for candidate in candidates)
    raise DataError(f"{path}: no configuration; expected {expected}{hint}")


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_model(folder: Path) -> bool:
    weights = [f"{name}{index}" for name in WEIGHTS for index in ("", ".index.json")]
    return (folder / "config.json").is_file() and any((folder / name).is_file() for name in weights)
