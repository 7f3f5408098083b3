"""Builds a task from the task section of a recipe: reads and tokenizes the data files into memory.

In: the section, a tokenizer. Out: a `Task`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from minilm.errors import DataError, UsageError
from minilm.files.regular import sha256_texts
from minilm.files.sentence_modules import read_modules
from minilm.finetune.embed import EmbedTask
from minilm.finetune.embed_data import trained_embedding
from minilm.finetune.embed_teacher import find_teacher
from minilm.finetune.multi_label import MultiLabelTask
from minilm.finetune.rerank import SELECTABLE as RERANK_METRICS
from minilm.finetune.rerank import RerankTask, Taught
from minilm.finetune.score_teacher import Pair, find_score_teacher
from minilm.finetune.seq2seq import HELDOUT_METRICS, Seq2SeqTask
from minilm.finetune.seq2seq_generation import GENERATED_METRICS
from minilm.finetune.squad import SpanTask
from minilm.finetune.task import Task
from minilm.finetune.teacher_scores import TeacherScores
from minilm.finetune.teacher_store import cache_root
from minilm.finetune.text import ClassificationTask, selectable
from minilm.finetune.tokens import SELECTABLE as TOKENS_METRICS
from minilm.finetune.tokens import TokensTask
from minilm.finetune.vector_encoder import VectorBase
from minilm.model.embedding import EmbeddingSettings
from minilm.model.embedding_files import read_embedding, read_scorer
from minilm.model.metadata import read_config
from minilm.model.vector_modules import Dense
from minilm.recipe import (
    EmbedSection,
    RerankSection,
    Seq2SeqSection,
    SquadSection,
    TaskSection,
    TextSection,
    TokensSection,
)
from minilm.score.rouge.scores import report_wordless
from minilm.tasks.rerank.rows import RankedList, read_lists
from minilm.tasks.seq2seq.rows import load_nlg_tokenizer, read_pairs
from minilm.tasks.squad.read import read_squad
from minilm.tasks.text.glue import GLUE, text_task
from minilm.tasks.text.rows import TextRow, read_rows_and_labels, read_text_rows
from minilm.tasks.tokens.rows import labels_of, read_tagged, require_known
from minilm.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


def task_tokenizer(section: TaskSection, path: Path, *, lowercase: bool | None) -> Tokenizer:
    """Load the tokenizer at `path` as the task requires it; raises DataError if it cannot be read."""
    load = load_nlg_tokenizer if isinstance(section, Seq2SeqSection) else Tokenizer.load
    tokenizer = load(path, lowercase=lowercase)
    return tokenizer.for_words if isinstance(section, TokensSection) else tokenizer


def make_task(
    section: TaskSection,
    tokenizer: Tokenizer,
    *,
    model: Path | None = None,
    config: Path | None = None,
    seed: int = 0,
) -> Task:
    """Read and tokenize the data files of a task section.

    Args:
        section: of a recipe.
        tokenizer: of the model.
        model: the folder that says how its vectors are made, for text vectors; None: mean pooling.
        config: the model's configuration if it is not in its folder.
        seed: decides new weights that belong to the task.

    Raises:
        UsageError: the name looks like a misspelled GLUE task, the task does not have the requested metric, or two
            held-out files have the same name.
        DataError: a file is missing, damaged, or contains no usable training example.
    """
    if isinstance(section, SquadSection):
        return _squad(section, tokenizer)
    if isinstance(section, Seq2SeqSection):
        return _seq2seq(section, tokenizer)
    if isinstance(section, TokensSection):
        return _tokens(section, tokenizer)
    if isinstance(section, RerankSection):
        return _rerank(section, tokenizer, model, config, seed)
    if isinstance(section, EmbedSection):
        return _embed(section, tokenizer, model, config, seed)
    return _text(section, tokenizer)


def _text(section: TextSection, tokenizer: Tokenizer) -> Task:
    """The GLUE task of that name, or a custom task, whose labels default to those found in the training files."""
    train: list[TextRow] | None = None
    task = text_task(section)
    if task.official is None:
        _reject_misspelled(section)
        if not task.labels and not section.regression:
            task, train = read_rows_and_labels(section.train, task)
    has = selectable(task)
    if section.metric is not None and section.metric not in has:
        raise UsageError(f"task.metric is {section.metric!r}; task {task.name!r} has {', '.join(has)}")
    task = replace(task, main=section.metric or task.main)
    if train is None:
        train = [row for name in section.train for row in read_text_rows(name, task)]
    dev = {name: read_text_rows(file, task) for name, file in dev_files(section.dev).items()}
    kind = MultiLabelTask if task.multi_label else ClassificationTask
    return kind(task, train, dev, tokenizer, max_tokens=section.max_tokens)


def _reject_misspelled(section: TextSection) -> None:
    close = get_close_matches(section.name.lower(), GLUE, n=1, cutoff=0.75)
    if close and section.text is None and section.label is None:
        raise UsageError(
            f"task.name is {section.name!r}: did you mean {close[0]!r}? To use this name for your own data, set "
            f"task.text and task.label to the names of its columns"
        )


def _squad(section: SquadSection, tokenizer: Tokenizer) -> Task:
    return SpanTask(
        [question for name in section.train for question in read_squad(Path(name))],
        {name: read_squad(Path(file)) for name, file in dev_files(section.dev).items()},
        tokenizer,
        settings=section,
    )


def _tokens(section: TokensSection, tokenizer: Tokenizer) -> Task:
    _require_metric(section.metric, TOKENS_METRICS)
    train = [sentence for name in section.train for sentence in read_tagged(Path(name), section)]
    dev = {name: read_tagged(Path(file), section) for name, file in dev_files(section.dev).items()}
    labels = labels_of(train, section)
    for sentences in (train, *dev.values()):
        require_known(sentences, labels)
    return TokensTask(train, dev, tokenizer, labels=labels, settings=section)


def _rerank(section: RerankSection, tokenizer: Tokenizer, model: Path | None, config: Path | None, seed: int) -> Task:
    """With mean pooling, the map from the mean to the score is that of the model if it is such a reranker."""
    _require_metric(section.metric, RERANK_METRICS)
    scorer = None
    if model is not None and model.is_dir() and section.pooling == "mean" and section.head != "fresh":
        scorer = read_scorer(model, model_max_tokens=section.max_tokens)
    own = scorer.modules[0] if scorer is not None and scorer.pooling == ("mean",) and len(scorer.modules) == 1 else None
    dense = own if isinstance(own, Dense) and own.activation == "Identity" and own.residual is None else None
    if section.head == "keep" and section.pooling == "mean" and dense is None:
        raise UsageError(
            f"task.head is 'keep', but {model} does not score the mean of its tokens with one linear map; set it to "
            "'auto' or 'fresh'"
        )
    train = list(_training_lists(section))
    return RerankTask(
        train,
        {name: read_lists(Path(file), section) for name, file in dev_files(section.dev).items()},
        tokenizer,
        settings=section,
        taught=_taught(section, train),
        dense=dense,
        base=_vector_base(model, config, tokenizer),
        seed=seed,
    )


def _training_lists(section: RerankSection) -> Iterator[RankedList]:
    for name in section.train:
        yield from read_lists(Path(name), section, teacher=section.teacher)


def _taught(section: RerankSection, train: Sequence[RankedList]) -> Taught | None:
    """The teacher of the lists, if there is one."""
    if section.teacher is None:
        return None

    def pairs(lists: Iterable[RankedList]) -> Iterator[tuple[Pair, str]]:
        return (
            ((one.query, text), location)
            for one in lists
            for text, location in zip(one.texts, one.locations, strict=True)
        )

    texts = sha256_texts(text for pair, _ in pairs(train) for text in pair)
    scores = TeacherScores(find_score_teacher(section.teacher), cache_root(section.cache, section.train), texts=texts)
    return Taught(scores=scores, pairs=lambda: pairs(_training_lists(section)))


def _vector_base(model: Path | None, config: Path | None, tokenizer: Tokenizer) -> VectorBase | None:
    """The model of a reranker as one of vectors; None if it is none, or its vectors are not computed here."""
    if model is None or not model.is_dir() or not read_modules(model):
        return None
    limit = read_config(model, config=config).max_tokens
    try:
        is_reranker = read_scorer(model, model_max_tokens=limit) is not None
        embedding = read_embedding(model, model_max_tokens=limit)
    except DataError:
        return None
    return None if is_reranker else VectorBase(folder=model, embedding=embedding, tokenizer=tokenizer)


def _require_metric(metric: str | None, known: Sequence[str]) -> None:
    if metric is not None and metric not in known:
        raise UsageError(f"task.metric is {metric!r}, expected one of {', '.join(known)}")


def _seq2seq(section: Seq2SeqSection, tokenizer: Tokenizer) -> Seq2SeqTask:
    scores = (*HELDOUT_METRICS, *(GENERATED_METRICS if section.dev_generated else ()))
    if section.metric is not None and section.metric not in scores:
        more = "" if section.dev_generated else ", or with task.dev_generated one of " + ", ".join(GENERATED_METRICS)
        raise UsageError(f"task.metric is {section.metric!r}, expected one of {', '.join(scores)}{more}")
    if section.dev_generated and section.beam_size > tokenizer.vocab_size:
        raise UsageError(
            f"task.beam_size is {section.beam_size}, but the vocabulary has {tokenizer.vocab_size} tokens; "
            "use fewer beams"
        )
    dev = {name: read_pairs([file], tokenizer, section) for name, file in dev_files(section.dev).items()}
    for name, pairs in dev.items() if section.dev_generated else ():
        report_wordless(pairs.references, [[text] for text in pairs.references], what=f"held-out pairs of {name}")
    return Seq2SeqTask(
        train=read_pairs(section.train, tokenizer, section),
        dev=dev,
        tokenizer=tokenizer,
        settings=section,
    )


def _embed(
    section: EmbedSection, tokenizer: Tokenizer, model: Path | None, config: Path | None, seed: int
) -> EmbedTask:
    """Vectors as the model makes them, except for what the section changes."""
    teacher = scorer = None
    if section.teacher is not None and section.rows == "texts":
        teacher = find_teacher(section.teacher, section.role)
    elif section.teacher is not None:
        scorer = find_score_teacher(section.teacher)
    own = EmbeddingSettings()
    if model is not None:
        limit = read_config(model, config=config).max_tokens
        own = read_embedding(model, model_max_tokens=limit) if model.is_dir() else replace(own, max_tokens=limit)
    of_teacher = None if teacher is None else teacher.embedding
    embedding, dense = trained_embedding(section, own, teacher=of_teacher, where=str(model))
    if embedding.max_tokens != own.max_tokens:
        what = "task.max_tokens is %d; without it texts have up to %d tokens, as for %s"
        logger.info(what, embedding.max_tokens, own.max_tokens, model)
    return EmbedTask(
        section,
        section.train,
        dev_files(section.dev),
        tokenizer.lowercased() if embedding.lowercase else tokenizer,
        base=VectorBase(folder=model or Path(), embedding=own, tokenizer=tokenizer),
        embedding=embedding,
        dense=dense,
        teacher=teacher,
        scorer=scorer,
        seed=seed,
    )


def dev_files(names: Sequence[str]) -> dict[str, str]:
    """Held-out files by their names in the report: the file name without its suffixes.

    Raises:
        UsageError: two files have the same name.
    """
    files: dict[str, str] = {}
    for name in names:
        last = name.rpartition("/")[2]
        short = last.removesuffix(".gz").rpartition(".")[0] or last
        if short in files:
            raise UsageError(f"task.dev: {files[short]} and {name} have the same name, {short!r}; rename one of them")
        files[short] = name
    return files
