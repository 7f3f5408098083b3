"""A teacher's relations are stored once and read instead of computed: the same numbers, within what is measured."""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.commands import minilm

from minilm import __version__
from minilm.corpus.build import build_shards
from minilm.corpus.shards import Shards
from minilm.distill import cache_filling
from minilm.distill.cache_filling import Filling
from minilm.distill.chain import run_distillation
from minilm.distill.dry_run import dry_run
from minilm.distill.room import Room
from minilm.distill.run import distill
from minilm.distill.teacher import load_teacher
from minilm.distill.teacher_base import Teacher
from minilm.distill.teacher_cache import CachedTeacher, CacheKey, decode, encode, first_documents, row_bytes
from minilm.errors import DataError, SystemProblem, UsageError
from minilm.files.json import read_json
from minilm.files.lock import locked_folder
from minilm.kernels.library import FOLDER, source_hash
from minilm.model.encoder import Relations
from minilm.model.packing import pack
from minilm.recipe import CacheSection, Distillation, load_recipe
from minilm.recipe.student_shape import TeacherSizes
from minilm.train.distributed import ALONE

HEADS, WIDTH = (6, 2, 2), 8  # of query, key and value: as where heads share keys
SIZES = [heads * WIDTH for heads in HEADS]


class TableTeacher(Teacher):
    """Relations from a table with a row per token id; counts what it computes."""

    engine = "a table"

    def __init__(self, *, bad: int | None = None) -> None:
        super().__init__(TeacherSizes(**dict.fromkeys(TeacherSizes.__dataclass_fields__, 1)))
        self._table = torch.randn(100, sum(SIZES), generator=torch.Generator().manual_seed(1))
        self._table[7] = 0.0
        if bad is not None:
            self._table[bad] = torch.inf
        self.tokens = 0

    def relations(self, packed) -> Relations:
        self.tokens += packed.num_tokens
        parts = self._table[packed.token_ids].split(SIZES, dim=1)
        query, key, value = (part.unflatten(1, (heads, WIDTH)) for part, heads in zip(parts, HEADS, strict=True))
        return Relations(query=query, key=key, value=value)


KEY = CacheKey(
    teacher_config="c",
    teacher_weights="w",
    layer=3,
    engine="a table",
    versions="1",
    device="cpu",
    computed_in="fp32",
    corpus="s",
    precision="bf16",
)


@pytest.fixture
def shards(tiny) -> Shards:
    build_shards([tiny.text], tokenizer=tiny.teacher, out=tiny.folder / "shards", max_tokens=32, shard_tokens=700)
    return Shards.open(tiny.folder / "shards")


@pytest.fixture
def small_files(monkeypatch) -> None:
    """About twenty files for the tiny corpus."""
    monkeypatch.setattr(cache_filling, "PART_BYTES", 200 * 2 * sum(SIZES))


def filled(folder: Path, shards: Shards, teacher: Teacher, *, limits=None, room=None, **key: object) -> CachedTeacher:
    wanted = replace(KEY, **key)
    cached = CachedTeacher(folder / wanted.name, wanted, shards.lengths)
    limits = limits or CacheSection(precision=wanted.precision)
    Filling(cached, teacher, shards, name="table", device="cpu", ranks=ALONE).run(limits, room or Room())
    return cached


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_documents_in_any_order_are_those_that_were_computed(tmp_path, shards, precision):
    teacher = TableTeacher()
    cached = filled(tmp_path, shards, teacher, precision=precision)
    assert teacher.tokens > shards.manifest.tokens, "all of them once, and the error's sample"
    assert len(list(cached.folder.glob("part-*"))) > 10
    documents = np.array([199, 3, 0, 4, 120, 3, 77])
    packed = pack([shards[int(one)] for one in documents])
    found, expected = cached.document_relations(packed, documents), teacher.relations(packed)
    for name, heads in zip(("query", "key", "value"), HEADS, strict=True):
        stored, computed = getattr(found, name), getattr(expected, name)
        assert stored.shape == (packed.num_tokens, heads, WIDTH)
        if precision == "bf16":
            assert torch.equal(stored, computed.bfloat16())
        else:
            largest = computed.flatten(1).abs().amax(1)[:, None, None]
            assert ((stored - computed).abs() <= largest / 254 * 1.001).all(), "half a step of its scale"
    again = filled(tmp_path, shards, TableTeacher(bad=3), precision=precision)  # reads: the teacher is not asked
    assert torch.equal(again.document_relations(packed, documents).key, found.key)


@pytest.mark.parametrize(("precision", "loss", "row"), [("bf16", 2e-5, 0.004), ("int8", 2e-4, 0.02)])
def test_the_error_of_storing_is_measured_and_small(tmp_path, shards, precision, loss, row, caplog):
    """In the manifest and in the log; the bounds are of random normal numbers, four times what they cause."""
    with caplog.at_level(logging.INFO, "minilm"):
        cached = filled(tmp_path, shards, TableTeacher(), precision=precision)
    found = read_json(cached.folder / "manifest.json")
    assert 0 < found["relation_loss"] < loss
    assert 0 < found["row_error"] < row
    assert found["measured_tokens"] > 1000
    assert f"largest relative error of a query, key or value {found['row_error']:.3g}" in caplog.text


def test_the_error_is_measured_on_documents_from_the_whole_corpus(tmp_path, shards, monkeypatch):
    measured = []

    def watched(self, packed, documents):
        measured.extend(documents.tolist())
        return read(self, packed, documents)

    read = CachedTeacher.document_relations
    monkeypatch.setattr(CachedTeacher, "document_relations", watched)
    monkeypatch.setattr(cache_filling, "_MEASURED_TOKENS", 200)
    filled(tmp_path, shards, TableTeacher())
    assert max(np.diff([0, *sorted(measured), len(shards)])) <= len(shards) / 4


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([8192] * 9, [0, 8]),
        ([8192, 4], [0, 1]),
        ([8192], [0]),
        ([1000, 900, 1000, 900, 900], [0, 4]),
        ([600] * 7, [0, 3, 6]),
        ([1] * 5, [0, 1, 2, 3, 4]),
    ],
)
def test_long_documents_are_from_the_whole_corpus_too(lengths, expected):
    assert cache_filling._spread(np.array(lengths)).tolist() == expected


def test_int8_has_a_scale_for_each_projection_of_a_token():
    """A large query does not cost its key any precision; a row of zeros stays one."""
    rows = torch.tensor([[1000.0, -3.0, 0.01, 0.005, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0, 2.0, 0.5]])
    stored = encode(rows, [2, 2, 2], "int8")
    assert stored["rows"].dtype == torch.int8
    found = torch.cat(decode(stored, [2, 2, 2]), dim=1)
    steps = torch.tensor([[1000, 1000, 0.01, 0.01, 0, 0], [0, 0, 1, 1, 2, 2]]) / 127
    assert ((found - rows).abs() <= steps / 2 * 1.001).all()
    assert row_bytes("int8", 6) == stored["rows"][0].nbytes + stored["scales"][0].nbytes
    assert row_bytes("bf16", 6) == encode(rows, [2, 2, 2], "bf16")["rows"][0].nbytes


def test_files_hold_whole_documents():
    assert first_documents(np.array([3, 3, 3, 9, 1]), 6) == [0, 2, 3, 4, 5]
    assert first_documents(np.array([3, 3]), 100) == [0, 2]


def test_whatever_decides_the_numbers_is_in_the_name_of_the_folder():
    others = {
        "teacher_config": "x", "teacher_weights": "x", "layer": 2, "engine": "x", "versions": "x",
        "device": "cuda", "computed_in": "bf16", "corpus": "x", "precision": "int8", "format": 9,
    }  # fmt: skip
    names = [replace(KEY, **{name: value}).name for name, value in others.items()]
    assert others.keys() == KEY.__dataclass_fields__.keys()
    assert len({KEY.name, *names}) == len(others) + 1
    assert re.fullmatch(r"layer-3-bf16-[0-9a-f]{12}", KEY.name)


def test_a_cache_that_is_too_large_is_refused_before_anything_is_written(tmp_path, shards, monkeypatch):
    root, tokens = tmp_path / "cache", shards.manifest.tokens
    needed = tokens * 160 / 2**20
    with pytest.raises(UsageError) as caught:
        filled(root, shards, TableTeacher(), limits=CacheSection(max_gib=0.0005))
    assert str(caught.value) == (
        f"cache: {needed:.1f} MiB in {root} ({tokens:,} tokens of 160 bytes, bf16), more than cache.max_gib (0.0005): "
        f"raise it, set cache.precision: int8 ({tokens * 92 / 2**20:.1f} MiB), or remove the section cache"
    )
    usage = shutil.disk_usage(tmp_path)._replace(free=2**18)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(SystemProblem, match=r"bf16\), but only 0\.2 MiB are free: choose another cache\.folder, set "):
        filled(root, shards, TableTeacher())
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=2**20))
    room = Room()
    room.take(tmp_path / "run", 0.8 * 2**20, held=0)
    with pytest.raises(SystemProblem, match=r"1\.0 MiB are free and what else this run writes there needs 0\.8 MiB: "):
        filled(root, shards, TableTeacher(), room=room)
    assert not root.exists()


def test_numbers_that_are_not_finite_are_refused(tmp_path, shards):
    """They would be zeros in int8, silently."""
    first = next(number for number in range(len(shards)) if 50 in shards[number])
    with pytest.raises(DataError) as caught:
        filled(tmp_path, shards, TableTeacher(bad=50), precision="int8")
    assert re.fullmatch(
        r"teacher table: its relations of document \d+ of the corpus are not finite numbers, so they cannot be stored; "
        r"use train\.precision fp32, or another teacher",
        str(caught.value),
    )
    number = int(str(caught.value).split("document ")[1].split()[0])
    assert 50 in shards[number]
    assert first <= number


def test_two_runs_do_not_fill_one_cache_at_a_time(tmp_path, shards):
    folder = tmp_path / KEY.name
    folder.mkdir()
    with (
        locked_folder(folder, busy="filling it", instead="another"),
        pytest.raises(UsageError, match=r"another process is filling .*; wait for it, or choose another cache\.folder"),
    ):
        filled(tmp_path, shards, TableTeacher())
    filled(tmp_path, shards, TableTeacher())


# --- runs ----------------------------------------------------------------------------------------


def with_cache(tiny, recipe: Path, **values: object) -> Path:
    """The recipe with a corpus that is built already, and a cache."""
    if not (tiny.folder / "shards").is_dir():
        build_shards([tiny.text], tokenizer=tiny.teacher, out=tiny.folder / "shards", max_tokens=32)
    content = json.loads(recipe.read_text())
    content["data"].update(corpus=str(tiny.folder / "shards"), inputs=[])
    content["cache"] = values
    recipe.write_text(json.dumps(content, indent=1))
    return recipe


def run(recipe: Path, *overrides: str):
    return distill(load_recipe(recipe, ["train.steps=3", *overrides]))


@pytest.mark.slow
def test_further_seeds_and_students_read_what_the_first_run_stored(tiny, monkeypatch):
    """The numbers are those without a cache, but for rounding; only the first run asks the teacher."""
    recipe = with_cache(tiny, tiny.recipe())
    plain = run(recipe, "cache=null", f"out={tiny.folder / 'plain'}").metrics["student.heldout_loss"]
    first = run(recipe).metrics["student.heldout_loss"]
    assert first == pytest.approx(plain, rel=1e-2)
    [folder] = (tiny.folder / "shards.teacher").iterdir()
    assert re.fullmatch(r"layer-3-bf16-[0-9a-f]{12}", folder.name)
    monkeypatch.setattr(Filling, "_relations", lambda self, packed: 1 / 0)
    other = run(recipe, "seed=7", f"out={tiny.folder / 'other'}", "students.0.num_layers=1")
    assert other.metrics["student.heldout_loss"] != first
    log = (tiny.folder / "other" / "log.txt").read_text()
    assert f"the teacher's relations are read from {folder}; bf16: relation loss against computed ones " in log


@pytest.mark.slow
def test_a_run_is_resumed_with_the_cache_that_it_began_with(tiny):
    recipe = with_cache(tiny, tiny.recipe())
    run(recipe)
    another = "run/checkpoints/step-00000003 belongs to a different run: cache.precision was 'bf16', is "
    for override, now in (("cache=null", "not set"), ("cache.precision=int8", "'int8'")):
        with pytest.raises(UsageError, match=re.escape(f"{another}{now}. ")):
            run(recipe, override)
    run(recipe, "cache.max_gib=2", f"cache.folder={tiny.folder / 'moved'}")
    assert not (tiny.folder / "moved").exists(), "all steps are done, so nothing is read"
    plain = f"out={tiny.folder / 'plain'}"
    run(recipe, "cache=null", plain)
    with pytest.raises(UsageError, match=r"a different run: cache\.precision was not set, is 'bf16'"):
        run(recipe, plain)


@pytest.mark.slow
def test_another_teacher_or_corpus_has_another_folder(tiny):
    recipe = with_cache(tiny, tiny.recipe())
    root = tiny.folder / "shards.teacher"
    run(recipe)
    first = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    tiny.write_teacher(seed=5)
    run(recipe, f"out={tiny.folder / 'second'}")
    assert len(list(root.iterdir())) == 2
    shutil.rmtree(tiny.folder / "shards")
    tiny.text.write_text("word1 word2 word3\n" * 30)
    run(with_cache(tiny, recipe), f"out={tiny.folder / 'third'}")
    assert len(list(root.iterdir())) == 3
    assert {path: path.read_bytes() for path in first} == first
    assert "corpora are here: layer-3-bf16-" in (tiny.folder / "third" / "log.txt").read_text()


def test_the_versions_of_what_computes_a_teacher_are_in_the_key(tiny, monkeypatch):
    """Files of two releases of transformers are never in one folder; on the native engine only the kernels count."""
    found = {}
    for release in ("5.0.0", "5.1.0"):
        monkeypatch.setattr("minilm.environment._version", lambda _, release=release: release)
        found[release] = [load_teacher(tiny.teacher, native=native).computed_by for native in (False, True)]
    first, second = found.values()
    assert first[0].versions == f"minilm {__version__}, torch 5.0.0, transformers 5.0.0"
    assert first[0] != second[0]
    if first[1].engine.startswith("native"):
        assert first[1] == second[1]
        assert first[1].versions.endswith(f"kernels {source_hash(FOLDER / 'cpp')}")


@pytest.mark.slow
def test_each_stage_of_a_chain_stores_its_own_teacher(tiny):
    recipe = tiny.chain(steps=2, warmup_steps=0)
    content = json.loads(recipe.read_text())
    recipe.write_text(json.dumps({**content, "cache": {"precision": "int8"}}))
    loaded = load_recipe(recipe, kind=Distillation)
    result = run_distillation(loaded)
    manifests = [read_json(path) for path in (tiny.folder / "run" / "corpus.teacher").glob("*/manifest.json")]
    assert {Path(one["teacher"]).name for one in manifests} == {"teacher", "model"}
    resolved = (tiny.folder / "run" / "stages" / "2" / "recipe.resolved.yaml").read_text()
    assert f'  folder: "{tiny.folder}/run/corpus.teacher"  # from the chain\n' in resolved
    assert run_distillation(loaded).metrics == result.metrics
    assert "stage 2 of 2 has finished" in (tiny.folder / "run" / "log.txt").read_text()
    assert "cache.precision" in (tiny.folder / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        ("{version: v2}", "loss.version v1 compares the attention that the teacher {teacher} computes itself"),
        ("{objective: hidden}", "loss.objective is hidden"),
        ("{objective: mlm}", "loss.objective is mlm"),
        ("{layers: all}", "loss.layers compares layers 2, 3 of the teacher"),
        ("{mask_tokens: 0.2}", "loss.mask_tokens masks other tokens in each epoch"),
    ],
)
def test_what_is_not_stored_is_refused(tiny, monkeypatch, loss, found):
    """The first loss is one of v1 in the end: of the teacher only what its class says is read here."""
    monkeypatch.setattr(Teacher, "own_attention", loss == "{version: v2}")
    with pytest.raises(UsageError) as caught:
        run(with_cache(tiny, tiny.recipe()), f"loss={loss}")
    assert str(caught.value) == (
        f"cache: it holds queries, keys and values of one layer, but {found.format(teacher=tiny.teacher)}: remove the "
        "section cache, or use loss.version v2 on one layer"
    )
    assert not (tiny.folder / "shards.teacher").exists()


def test_a_run_that_reads_less_than_it_stores_says_so(tiny, caplog):
    run(with_cache(tiny, tiny.recipe()))
    assert "the cache holds the whole corpus, of which this run reads 12.0%: " in caplog.text


def test_a_dry_run_says_what_a_cache_costs(tiny):
    """Its size, its time, and that of a step without the teacher; nothing is written. A full one costs nothing."""
    recipe = with_cache(tiny, tiny.recipe())
    lines = [line for _, line in dry_run(load_recipe(recipe, kind=Distillation))]
    [time] = [line for line in lines if line.startswith("time: ")]
    assert re.match(r"time: \S+ m?s a step without the teacher, .* \d+% of the time in the teacher; without held", time)
    [cache] = [line for line in lines if line.startswith("cache: ")]
    assert re.fullmatch(
        rf"cache: 1\.0 MiB in {tiny.folder}/shards\.teacher \(3,7\d\d tokens of 288 bytes, bf16\); [\d.,]+ [MG]iB are "
        r"free; filled before the first step, in \S+ s",
        cache,
    )
    assert not (tiny.folder / "shards.teacher").exists()
    with pytest.raises(UsageError, match=r"more than cache\.max_gib \(0\.0001\): raise it"):
        list(dry_run(load_recipe(recipe, ["cache.max_gib=0.0001"], kind=Distillation)))
    run(recipe)
    lines = [line for _, line in dry_run(load_recipe(recipe, kind=Distillation))]
    assert any(
        re.fullmatch(rf"cache: {tiny.folder}/shards\.teacher/layer-3-\S+ is filled already", one) for one in lines
    )


def test_mistakes_in_the_section_are_one_line(tiny, capsys):
    recipe = with_cache(tiny, tiny.recipe(), precision="int4")
    assert minilm("distill", recipe) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "cache.precision: found the text 'int4', expected 'bf16' or 'int8'" in line
