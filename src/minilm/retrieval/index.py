"""A folder that can be searched: `texts.parquet` (ids and texts), `vectors.npy` and `index.json`, which says of what.

In: documents and the model that encodes them; later that model and queries. Out: the folder; the best documents of each
query. Vectors are read from disk when they are compared, so memory does not grow with their number; ids are kept, and
the locations of the documents while they are encoded.

`index.json` is written last; until then a hidden file says that the folder is that of an unfinished index, which the
same command resumes. No other folder that is not empty is written to.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from minilm.errors import DataError, UsageError
from minilm.files.atomic import make_folder, reject_existing, reporting_writes
from minilm.files.checked import Count, PositiveInt, from_json
from minilm.files.json import read_json, write_json
from minilm.files.lock import locked_folder
from minilm.files.regular import sha256_file, sha256_text, without_surrogates
from minilm.files.text_store import TextStore, map_vectors, writing_texts
from minilm.infer.api import LoadedModel
from minilm.infer.bulk.embed import EmbedJob, TextToEmbed, chunks_of, embed_file, vector_identity
from minilm.infer.similarity import known_similarity
from minilm.infer.vector_precision import STORED_TYPES, Float32s, stored_width
from minilm.infer.vectors import VectorOptions, cut_part, vector_options
from minilm.model.precision import Precision, VectorPrecision
from minilm.model.vector_ranges import RANGES_SUFFIX, read_vector_ranges
from minilm.retrieval.search import Hits, nearest, require_signs_fit
from minilm.retrieval.vectors import StoredRows
from minilm.tally import Tally, reporting_tally

TEXTS, VECTORS, INDEX = "texts.parquet", "vectors.npy", "index.json"
_RANGES = VECTORS + RANGES_SUFFIX
_UNFINISHED = ".index.unfinished"
FORMAT = 2
"""Of the folder."""
_REMEDY = "remove the folder, then build the index again"


@dataclass(frozen=True, kw_only=True)
class IndexFile:
    """A file of the folder, and its hex SHA-256."""

    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class IndexFacts:
    """What `index.json` says.

    Attributes:
        format: of the folder.
        model: the model as it was named.
        document_model: hash of what encoded the documents.
        query_model: hash of what encodes queries; the same unless the model is asymmetric.
        pooling: of the documents' vectors.
        similarity: that queries are compared by.
        dimensions: D of the vectors.
        vectors: their precision.
        count: number of documents.
        files: all others of the folder.
    """

    format: PositiveInt
    model: str
    document_model: str
    query_model: str
    pooling: Sequence[str]
    similarity: str
    dimensions: PositiveInt
    vectors: VectorPrecision
    count: Count
    files: Sequence[IndexFile]


@dataclass(frozen=True, kw_only=True)
class IndexJob:
    """Documents and how they are stored.

    Attributes:
        name: of the model, by which a search finds it again.
        folder: of the index.
        dimensions: of the vectors; None: all.
        vectors: their precision; int8 within the ranges of the documents.
        precision: of the engine.
    """

    name: str
    folder: Path
    dimensions: int | None = None
    vectors: VectorPrecision = "fp32"
    precision: Precision = "fp32"


def build_index(model: LoadedModel, documents: Iterable[TextToEmbed], job: IndexJob) -> IndexFacts:
    """Write the folder; called again after a kill, it encodes only what is missing.

    Raises:
        UsageError: the model's similarity is unknown, the folder holds an index or other files, what is in it belongs
            to other documents or another model, or another process is writing it.
        DataError: a document cannot be read, or int8 has only one.
        SystemProblem: writing fails.
        Interrupted: Ctrl-C; what is finished is kept.
    """
    encoder = model.route("document")
    similarity = known_similarity(encoder.embedding.similarity)
    require_signs_fit(similarity, job.vectors)
    options = vector_options(encoder, role="document", dimensions=job.dimensions, precision=job.vectors)
    if job.vectors == "int8":
        documents = _several(documents)
    with _unfinished(job.folder):
        texts = job.folder / TEXTS
        locations = _write_texts(texts, documents)
        count = embed_file(
            encoder,
            EmbedJob(
                source=texts,
                output=job.folder / VECTORS,
                text="text",
                id="id",
                options=options,
                calibrate=texts if job.vectors == "int8" else None,
                precision=job.precision,
                locations=locations,
            ),
        )
        facts = IndexFacts(
            format=FORMAT,
            model=job.name,
            document_model=_hash(encoder, "document"),
            query_model=_hash(model.route("query"), "query"),
            pooling=encoder.embedding.pooling,
            similarity=similarity,
            dimensions=options.dimensions,
            vectors=job.vectors,
            count=count,
            files=[IndexFile(file=name, sha256=sha256_file(job.folder / name)) for name in _data_files(job.vectors)],
        )
        write_json(job.folder / INDEX, asdict(facts))
    return facts


@contextlib.contextmanager
def _unfinished(folder: Path) -> Iterator[None]:
    """Hold the folder of an unfinished index, which is finished when the block succeeds."""
    mark = folder / _UNFINISHED
    if not (folder / INDEX).exists() and not mark.exists():
        reject_existing(folder)
    make_folder(folder)
    with locked_folder(folder, busy=f"writing {folder}", instead="another output"):
        if (folder / INDEX).exists():
            raise UsageError(f"{folder} already holds an index; remove it, or choose another output")
        with reporting_writes(mark):
            mark.touch()
        yield
        with reporting_writes(mark):
            mark.unlink()


def _several(documents: Iterable[TextToEmbed]) -> Iterator[TextToEmbed]:
    """The documents; raises DataError at the end if there is only one, which has no ranges."""
    count = 0
    for one in documents:
        count += 1
        yield one
    if count == 1:
        raise DataError(
            f"{one.location}: found no other document, expected at least two for the ranges of int8; add documents, or "
            "use --vectors fp32"
        )


def _write_texts(path: Path, documents: Iterable[TextToEmbed]) -> list[str]:
    """Write ids and texts; returns the location of each."""
    locations: list[str] = []
    with reporting_tally() as tally, writing_texts(path) as write:
        for chunk in chunks_of(documents):
            texts = [without_surrogates(one.text) for one in chunk]
            changed = [one.location for one, text in zip(chunk, texts, strict=True) if text != one.text]
            tally.add("texts contained lone surrogates, which were replaced", changed, of=len(chunk))
            write([one.id for one in chunk], texts)
            locations += [one.location for one in chunk]
    return locations


def remove_index(folder: Path) -> None:
    """Remove an index; killed in between, what is left is unfinished and not an index."""
    mark = folder / _UNFINISHED
    with contextlib.suppress(OSError):
        mark.touch()
        for path in [folder / INDEX, *folder.iterdir()]:
            if path != mark:
                path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


class Index:
    """An index folder, opened for searching.

    Attributes:
        folder: where it is.
        facts: what `index.json` says.
        texts: ids and texts.
        vectors: one per text.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder.

        Raises:
            UsageError: there is no index.
            DataError: a file is missing or damaged, which its checksum shows, or the files do not belong together.
        """
        self.folder = folder
        self.facts = facts = _read_facts(folder)
        _require_checksums(folder, facts)
        self.texts = TextStore(folder / TEXTS)
        stored_NW = map_vectors(folder / VECTORS)
        shape = (facts.count, stored_width(facts.dimensions, facts.vectors))
        if stored_NW.shape != shape or stored_NW.dtype != STORED_TYPES[facts.vectors] or len(self.texts) != facts.count:
            raise DataError(
                f"{folder}: found {len(self.texts):,} texts and {stored_NW.dtype} vectors of shape {stored_NW.shape}; "
                f"{INDEX} says {facts.vectors} of shape {shape}; {_REMEDY}"
            )
        ranges_2D = None
        if facts.vectors == "int8":
            ranges_2D = read_vector_ranges(folder / _RANGES, dimensions=facts.dimensions)
        self.vectors = StoredRows(
            stored_NW=stored_NW, dimensions=facts.dimensions, precision=facts.vectors, ranges_2D=ranges_2D
        )

    @cached_property
    def row_of(self) -> dict[str, int]:
        """The row of each id."""
        return {name: row for row, name in enumerate(self.texts.ids)}


class Searcher:
    """An index together with the model that its queries need.

    Attributes:
        index: what is searched.
        encoder: encodes queries.
    """

    def __init__(self, index: Index, model: LoadedModel) -> None:
        """Raises UsageError if queries of the model cannot be compared with the documents of the index."""
        self.index, self.encoder = index, model.route("query")
        if _hash(self.encoder, "query") != index.facts.query_model:
            raise UsageError(
                f"{index.folder} was built with {index.facts.model}, and {self.encoder.folder} encodes queries "
                "otherwise (weights, tokenizer, prompt, pooling or max length differ): name that model with --model, "
                "or build the index again with this one"
            )

    def options(self, dimensions: int) -> VectorOptions:
        """How a query becomes a vector of D dimensions: never rounded, and cut as the documents are."""
        return vector_options(self.encoder, role="query", dimensions=dimensions)

    def encode(self, queries: Iterable[TextToEmbed], tally: Tally) -> Float32s:
        """The vectors of queries, `[Q, D]`; `tally` counts empty and truncated ones."""
        options = self.options(self.index.facts.dimensions)
        found = [np.empty((0, options.dimensions), dtype=np.float32)]
        for chunk in chunks_of(queries):
            texts, locations = [one.text for one in chunk], [one.location for one in chunk]
            tally.add("texts are empty", [one.location for one in chunk if not one.text.strip()], of=len(chunk))
            found.append(cut_part(self.encoder, texts, options=options, locations=locations, tally=tally))
        return np.concatenate(found)

    def search(self, queries_QD: Float32s, *, k: int) -> Hits:
        """The k best documents of each query, by exact comparison with all."""
        return nearest(queries_QD, self.index.vectors, similarity=self.index.facts.similarity, k=k)


def _read_facts(folder: Path) -> IndexFacts:
    file = folder / INDEX
    if not folder.is_dir() or not file.exists():
        unfinished = " (what is there is unfinished)" if (folder / TEXTS).exists() else ""
        raise UsageError(f"{folder}: no index{unfinished}; write one with minilm index MODEL --input FILE --output DIR")
    values = read_json(file)
    if values.get("format") != FORMAT:
        raise DataError(f"{file}: format is {values.get('format')!r:.20}, expected {FORMAT}; {_REMEDY}")
    return from_json(IndexFacts, values, where=file, remedy=_REMEDY)


def _data_files(vectors: VectorPrecision) -> list[str]:
    """The files of a folder besides `index.json`."""
    return [TEXTS, VECTORS, *([_RANGES] if vectors == "int8" else [])]


def _require_checksums(folder: Path, facts: IndexFacts) -> None:
    """Read all files; raises DataError for one that is not the one that was written."""
    expected = {one.file: one.sha256 for one in facts.files}
    for name in _data_files(facts.vectors):
        file = folder / name
        if not file.is_file() or sha256_file(file) != expected.get(name):
            raise DataError(f"{file}: missing or damaged, see its checksum in {INDEX}; {_REMEDY}")


def _hash(encoder: LoadedModel, role: str) -> str:
    """Hex SHA-256 of what the vectors of a role depend on in an encoder."""
    return sha256_text(json.dumps(vector_identity(encoder, encoder.embedding.prompt_of(prompt=None, role=role))))
