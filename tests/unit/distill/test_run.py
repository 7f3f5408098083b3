"""A recipe becomes the documented run folder, for every loss and initialization; invalid data is rejected."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from minilm.cli.distill import _table
from minilm.corpus.build import build_shards
from minilm.corpus.shards import Shards
from minilm.distill.agreement import is_of_head
from minilm.distill.relation_kernel import loss_implementation
from minilm.distill.run import DistillResult, distill
from minilm.errors import DataError, UsageError
from minilm.files.json import read_json
from minilm.files.tensors import read_safetensors, write_safetensors
from minilm.infer.api import load
from minilm.model.checkpoint import read_model
from minilm.model.packing import pack
from minilm.recipe import load_recipe
from minilm.text.tokenizer import Tokenizer
from minilm.train.metrics import read_metrics


def run(recipe: Path, *overrides: str) -> DistillResult:
    return distill(load_recipe(recipe, ["train.steps=3", *overrides]))


def change(recipe: Path, **sections: object) -> Path:
    values = json.loads(recipe.read_text())
    for name, value in sections.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    recipe.write_text(json.dumps(values, indent=1))
    return recipe


@pytest.mark.slow
def test_the_run_folder_holds_everything(tiny):
    recipe = tiny.recipe()
    result = run(recipe)
    out = tiny.folder / "run"
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoints", "corpus", "env.json", "log.txt", "metrics.jsonl", "model", "recipe.resolved.yaml", "report.html",
    ]  # fmt: skip
    assert load_recipe(out / "recipe.resolved.yaml").recipe == load_recipe(recipe, ["train.steps=3"]).recipe
    assert read_json(out / "env.json")
    assert "distilling layer 3 of" in (out / "log.txt").read_text()
    [row] = read_metrics(out)
    assert {key for key in row if not is_of_head(key)} == {
        "step", "loss", "student.query-query", "student.key-key", "student.value-value", "gradient_norm",
        "learning_rate", "student.heldout_loss", "student.agreement", "student.query-query.agreement",
        "student.query-query.kl", "student.key-key.agreement", "student.key-key.kl", "student.value-value.agreement",
        "student.value-value.kl", "tokens", "seconds", "tokens_per_second", "memory_gib", "bad_steps",
    }  # fmt: skip
    parts = row["student.query-query"] + row["student.key-key"] + row["student.value-value"]
    assert row["loss"] == pytest.approx(parts)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000003"]
    page = (out / "report.html").read_text()
    assert "<title>tiny</title>" in page
    assert "Loss v2: 12 relation heads; normalized per sequence." in page
    assert result.folders == {"student": out / "model"}
    assert result.metrics == {name: row[name] for name in ("student.heldout_loss", "student.agreement")}
    card = (out / "model" / "README.md").read_text()
    assert "It starts at random. Loss v2: 12 relation heads; normalized per sequence." in card
    assert card.startswith('---\nlibrary_name: "minilm"\npipeline_tag: "feature-extraction"\nbase_model: "teacher"\n')


@pytest.mark.slow
def test_a_run_is_not_continued_by_another_implementation_of_its_loss(tiny, monkeypatch):
    """As where the library of kernels is missing: the curves would differ, if only by rounding."""
    recipe = tiny.recipe()
    run(recipe)
    ours = loss_implementation("cpu")
    assert f"relation losses: {ours}" in (tiny.folder / "run" / "log.txt").read_text()
    other = {"compiled": "torch", "torch": "compiled"}[ours]
    monkeypatch.setattr("minilm.distill.run.loss_implementation", lambda device: other)
    with pytest.raises(UsageError, match=f"belongs to a different run: relation loss was '{ours}', is '{other}'"):
        run(recipe)


@pytest.mark.slow
def test_the_model_loads_in_transformers_and_gives_the_same_rows(tiny):
    transformers = pytest.importorskip("transformers")
    folder = run(tiny.recipe()).folders["student"]
    theirs, loading = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    words = transformers.AutoTokenizer.from_pretrained(folder)("word1 word20 word3")["input_ids"]
    ours = Tokenizer.load(folder).encode(["word1 word20 word3"])[0]
    assert words == ours.tolist()
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor([words])).last_hidden_state[0]
        found = read_model(folder).encoder(pack([ours]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_model_in_the_folder_is_the_one_that_was_evaluated(tiny):
    """The saved weights equal those of the last checkpoint."""
    run(tiny.recipe())
    state = read_safetensors(tiny.folder / "run/checkpoints/step-00000003/model.safetensors")
    saved = read_model(tiny.folder / "run" / "model").encoder.state_dict()
    assert all(torch.equal(state[f"0.{name}"], value) for name, value in saved.items())


@pytest.mark.slow
def test_v1_uses_the_attention_heads(tiny):
    recipe = change(tiny.recipe(), loss={"version": "v1", "relation_heads": None})
    run(recipe)
    [row] = read_metrics(tiny.folder / "run")
    assert {"student.query-key", "student.value-value"} <= set(row)
    assert "student.query-query" not in row


def test_v1_rejects_students_with_other_heads_than_the_teacher(tiny):
    """4 heads divide the teacher's width, so only a comparison with its 6 heads detects the mismatch."""
    recipe = change(tiny.recipe(), loss={"version": "v1", "relation_heads": None})
    with pytest.raises(UsageError) as caught:
        run(recipe, "students.0.num_heads=4")
    assert str(caught.value) == (
        "loss.version v1 compares attention heads one by one, but the teacher has 6 and student 'student' has 4; "
        "change its num_heads, or use v2"
    )


@pytest.mark.slow
def test_a_student_that_starts_as_the_whole_teacher_has_no_loss(tiny):
    shape = {"name": "student", "num_layers": 3, "hidden_size": 48, "num_heads": 6, "intermediate_size": 96}
    students = [{**shape, "init": "layers", "teacher_layers": [1, 2, 3]}]
    result = run(change(tiny.recipe(), students=students), "train.learning_rate=1e-30")
    assert result.metrics["student.heldout_loss"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.slow
def test_bf16_runs_to_its_end(tiny):
    result = run(tiny.recipe(), "train.precision=bf16")
    assert np.isfinite(result.metrics["student.heldout_loss"])


@pytest.mark.slow
def test_without_heldout_documents_there_is_no_heldout_loss(tiny):
    result = run(tiny.recipe(), "data.heldout_documents=0")
    assert result.metrics == {}
    assert _table(result).splitlines()[1].split()[2] == "-"


@pytest.mark.slow
def test_the_table_at_the_end(tiny):
    result = run(tiny.recipe())
    loss, agreement = (result.metrics[f"student.{name}"] for name in ("heldout_loss", "agreement"))
    assert [line.split() for line in _table(result).splitlines()] == [
        ["student", "parameters", "held-out", "loss", "agreement", "folder"],
        ["student", "14,376", f"{loss:.6g}", f"{agreement:.1%}", str(tiny.folder / "run" / "model")],
    ]


def corpus(tiny, **options: int) -> Path:
    folder = tiny.folder / "shards"
    build_shards([tiny.text], tokenizer=tiny.teacher, out=folder, **{"max_tokens": 32, **options})
    return folder


def with_corpus(tiny) -> Path:
    return change(tiny.recipe(), data={"corpus": str(tiny.folder / "shards"), "inputs": []})


@pytest.mark.slow
def test_a_built_corpus_and_its_text_files_give_the_same_model(tiny):
    first = run(tiny.recipe())
    corpus(tiny)
    second = run(with_corpus(tiny), f"out={tiny.folder / 'second'}")
    assert first.metrics == second.metrics


@pytest.mark.slow
def test_several_inputs_are_read_in_order_even_with_equal_names(tiny):
    other = tiny.folder / "more" / "text.txt"
    other.parent.mkdir()
    other.write_text("word1 word2\n")
    recipe = change(tiny.recipe(), data={"inputs": [str(tiny.text), str(other)]})
    run(recipe)
    shards = tiny.folder / "run" / "corpus" / "shards"
    assert len(Shards.open(shards)) == 201
    built = (shards / "manifest.json").stat().st_mtime_ns
    run(recipe)
    assert (shards / "manifest.json").stat().st_mtime_ns == built
    other.write_text("word3\n")
    with pytest.raises(UsageError, match=r"a different run: dataset was '\w{64}', is '\w{64}'\. "):
        run(recipe)
    assert (shards / "manifest.json").stat().st_mtime_ns == built, "a run that is refused replaces nothing"


@pytest.mark.slow
def test_a_corpus_with_a_damaged_record_is_rebuilt(tiny):
    recipe = tiny.recipe()
    first = run(recipe)
    (tiny.folder / "run" / "corpus" / "source.json").write_text("{")
    assert run(recipe).metrics == first.metrics


def test_a_corpus_of_another_tokenizer_is_rejected(tiny):
    corpus(tiny)
    tiny.write_teacher(words=(*tiny.words[:-1], "another"))
    with pytest.raises(DataError) as caught:
        run(with_corpus(tiny))
    assert str(caught.value) == (
        f"the corpus {tiny.folder}/shards was built with a different tokenizer than that of the teacher "
        f"({tiny.teacher}); rebuild it with --tokenizer {tiny.teacher}"
    )


def test_a_corpus_split_elsewhere_is_rejected(tiny):
    corpus(tiny, max_tokens=16)
    with pytest.raises(UsageError, match=r"max_tokens is 32, but the corpus was split at 16 tokens; set data.max_tok"):
        run(with_corpus(tiny))


def test_documents_longer_than_the_positions_are_rejected(tiny):
    with pytest.raises(UsageError) as caught:
        run(tiny.recipe(), "data.max_tokens=100", "train.tokens_per_batch=100")
    assert str(caught.value) == (
        "data.max_tokens is 100, but teacher and students have positions for 64 tokens; set it to at most 64"
    )
    assert not (tiny.folder / "run" / "corpus").exists()


def test_too_few_documents_are_rejected(tiny):
    with pytest.raises(DataError) as caught:
        run(tiny.recipe(), "data.heldout_documents=200")
    assert str(caught.value) == (
        "the corpus has 200 documents and data.heldout_documents is 200; expected at least one more document "
        "to train on"
    )


def test_text_without_words_is_rejected(tiny):
    tiny.text.write_text("\n\n")
    with pytest.raises(DataError, match=r"^data\.inputs: no text in .*text\.txt; check the files$"):
        run(tiny.recipe())
    assert not (tiny.folder / "run" / "corpus").exists()


def test_a_missing_input_is_rejected(tiny):
    with pytest.raises(UsageError) as caught:
        run(tiny.recipe(), "data.inputs=[gone.txt]")
    assert str(caught.value) == "gone.txt: no such file; check the input path"


def test_a_missing_teacher_is_rejected(tiny):
    with pytest.raises(DataError, match="gone"):
        run(tiny.recipe(), "teacher.model=gone")


def test_a_teacher_with_the_tokenizer_of_another_model_is_rejected(tiny):
    folder = tiny.folder / "other"
    folder.mkdir()
    vocab = folder / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word1", "word2"]))
    Tokenizer.load(vocab).save(tiny.teacher)
    with pytest.raises(DataError, match=r"has 7 tokens but .* has 100: they do not match"):
        run(tiny.recipe())


@pytest.mark.parametrize("count", [2, 300])
def test_so_is_one_of_a_family_that_only_transformers_runs(tiny, count):
    """Fewer tokens would be other ones, without an error; more would have no rows."""
    file = tiny.teacher / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "ernie"}))
    vocab = tiny.folder / "vocab.txt"
    words = (f"word{number}" for number in range(count))
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    Tokenizer.load(vocab).save(tiny.teacher)
    with pytest.raises(DataError, match=rf"has {5 + count} tokens but {tiny.teacher} has 100: they do not match"):
        run(tiny.recipe())


@pytest.mark.slow
def test_the_library_leaves_logging_as_it_was(tiny):
    root = logging.getLogger("minilm")
    before = (root.level, list(root.handlers))
    run(tiny.recipe())
    assert (root.level, list(root.handlers)) == before


@pytest.mark.slow
def test_attention_dropout_applies_to_every_student(tiny):
    shape = {"num_layers": 2, "hidden_size": 24, "num_heads": 6, "intermediate_size": 48}
    losses = []
    for share in (0.0, 0.3):
        recipe = tiny.recipe(f"run{share}", attention_dropout=share)
        students = [{"name": name, **shape} for name in ("one", "two")]
        metrics = run(change(recipe, students=students)).metrics
        losses.append({name: value for name, value in metrics.items() if name.endswith(".heldout_loss")})
    plain, dropped = losses
    assert len(plain) == 2
    assert all(plain[name] != dropped[name] for name in plain)


def as_sentence_folder(teacher: Path, *kinds: str) -> None:
    """The teacher as older sentence-transformers releases save it: the encoder has a folder of its own."""
    inner = teacher / "0_Transformer"
    inner.mkdir()
    for file in [one for one in teacher.iterdir() if one.is_file()]:
        file.rename(inner / file.name)
    listed = [("0_Transformer", "Transformer"), ("1_Pooling", "Pooling"), *((f"2_{kind}", kind) for kind in kinds)]
    values = [
        {"idx": number, "name": path, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(listed)
    ]
    (teacher / "modules.json").write_text(json.dumps(values))
    (teacher / "1_Pooling").mkdir()
    (teacher / "1_Pooling" / "config.json").write_text('{"pooling_mode": ["max", "cls"], "include_prompt": false}')
    (teacher / "config_sentence_transformers.json").write_text('{"prompts": {"query": "word1 "}, "truncate_dim": 30}')


@pytest.mark.slow
def test_a_teacher_with_its_encoder_in_a_folder_gives_the_same_student_and_its_settings(tiny):
    plain = run(tiny.recipe("plain"))
    as_sentence_folder(tiny.teacher, "Normalize")
    nested = run(tiny.recipe("nested"))
    first, second = (read_safetensors(one.folders["student"] / "model.safetensors") for one in (plain, nested))
    assert all(torch.equal(first[name], second[name]) for name in first)
    student = load(nested.folders["student"])
    expected = replace(load(tiny.teacher).embedding, max_tokens=student.embedding.max_tokens)
    assert student.embedding == expected
    assert student.encode(["word1"], role="query").shape == (1, 30)
    assert student.encode([]).shape == (0, 30)


def test_a_teacher_whose_modules_cannot_be_copied_is_rejected_before_any_work(tiny):
    as_sentence_folder(tiny.teacher, "LayerNorm")
    inner = tiny.teacher / "2_LayerNorm"
    inner.mkdir()
    (inner / "config.json").write_text('{"dimension": 96}')
    weights = {name: torch.ones(96) for name in ("norm.weight", "norm.bias")}
    write_safetensors(inner / "model.safetensors", weights)
    with pytest.raises(DataError) as caught:
        run(tiny.recipe())
    assert str(caught.value) == (
        f"{inner}: LayerNorm has weights for the vectors of its own model and cannot be copied to another; "
        "use a copy of the folder without this module in modules.json"
    )
    assert not (tiny.folder / "run" / "corpus").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "inherited"),
    [
        ({"family": "electra", "embedding_size": 20}, 20),
        ({"family": "distilbert", "num_segments": 0}, None),
    ],
    ids=["electra", "distilbert"],
)
@pytest.mark.parametrize("init", ["random", "layers"])
def test_teachers_of_other_shapes_make_students_that_transformers_reads(tiny, shape, inherited, init):
    """An ELECTRA with embeddings narrower than its layers, and a DistilBERT, which has no segments and no pooler."""
    tiny.write_teacher(**shape)
    student = {"num_layers": 2, "hidden_size": 24, "num_heads": 6, "intermediate_size": 48, "name": "student"}
    if init == "layers":
        student |= {"hidden_size": 48, "intermediate_size": 96, "init": "layers", "teacher_layers": [1, 3]}
    result = run(change(tiny.recipe(), students=[student]))
    folder = result.folders["student"]
    config = read_model(folder).encoder.config
    assert (config.family, config.hidden_size) == (shape["family"], student["hidden_size"])
    assert config.embedding_size == (inherited if init == "layers" else None)
    transformers = pytest.importorskip("transformers")
    theirs, report = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(["word1 word2"], return_tensors="pt")
    assert ("token_type_ids" in inputs) == (shape["family"] == "electra")
    with torch.no_grad():
        expected = theirs.eval()(**inputs).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(load(folder).encode(["word1 word2"])[0], expected, atol=1e-5)
