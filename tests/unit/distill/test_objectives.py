"""Runs of every objective: what is saved, what is said, what is rejected before anything is computed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.conftest import checked
from torch.utils.flop_counter import FlopCounterMode

from minilm.distill.chain import run_distillation
from minilm.distill.costs import Lengths, folder_bytes, step_flops
from minilm.distill.criterion import RelationCriterion
from minilm.distill.dry_run import dry_run
from minilm.distill.run import DistillResult, distill
from minilm.distill.shapes import compared_layers, relation_heads
from minilm.distill.stages import planned
from minilm.distill.student import make_student
from minilm.errors import DataError, UsageError
from minilm.files.tensors import read_safetensors, write_safetensors
from minilm.model.checkpoint import read_model
from minilm.model.config import EncoderConfig
from minilm.model.heads import new_head
from minilm.model.packing import pack
from minilm.recipe import Distillation, LossSection, load_recipe
from minilm.recipe.student_shape import TeacherSizes
from minilm.text.tokenizer import Tokenizer
from minilm.train.metrics import read_metrics

HIDDEN = ["loss={objective: hidden}"]
MLM = ["loss={objective: mlm}"]
SOFT = ["loss={objective: mlm, labels: soft}"]
LAYERS = ["loss={relation_heads: 12, layers: all}"]


def run(tiny, *overrides: str, steps: int = 3) -> DistillResult:
    return distill(load_recipe(tiny.recipe(steps=steps), overrides))


def check(tiny, *overrides: str) -> list[str]:
    return checked(load_recipe(tiny.recipe(), overrides, kind=Distillation))


# --- runs ----------------------------------------------------------------------------------------


def test_a_masked_language_model_runs_without_the_weights_of_its_teacher_and_loads_in_transformers(tiny):
    transformers = pytest.importorskip("transformers")
    write_safetensors(tiny.teacher / "model.safetensors", {"none": torch.zeros(1)})
    result = run(tiny, *MLM)
    [row] = read_metrics(tiny.folder / "run")
    assert row["loss"] == pytest.approx(row["student.mlm"])
    assert row["student.mlm"] == pytest.approx(np.log(100), rel=0.05), "of 100 tokens that are as likely"
    folder = result.folders["student"]
    theirs, loading = transformers.BertForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"]
    assert all("pooler" in name for name in loading["unexpected_keys"])
    words = Tokenizer.load(folder).encode(["word1 word20 word3"])[0]
    ours = read_model(folder, head="mlm", fresh_head=False).eval()
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(words.astype(np.int64))[None]).logits[0]
        torch.testing.assert_close(ours(pack([words])), expected, atol=1e-5, rtol=1e-5)
    log = (tiny.folder / "run" / "log.txt").read_text()
    assert "training as masked language models: student; 200 documents" in log
    card = (folder / "README.md").read_text()
    assert "Trained as a masked language model with the tokenizer of `teacher` for 3 steps of 8 documents." in card
    assert "The head for masked tokens is in the folder." in card
    page = (tiny.folder / "run" / "report.html").read_text()
    assert "Loss mlm: hard labels; 0.15 of the tokens are masked; normalized per sequence." in page


def test_the_head_of_a_masked_language_model_is_continued_with_it(tiny):
    first = run(tiny, *MLM).folders["student"].rename(tiny.folder / "first")
    second = run(tiny, *MLM, f'students=[{{"init": "{first}"}}]', f"out={tiny.folder / 'second'}",
                 "train.learning_rate=1e-30").folders["student"]  # fmt: skip
    before, after = (read_safetensors(folder / "model.safetensors") for folder in (first, second))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-9) for name in before)


def test_a_model_of_hidden_states_is_saved_without_the_matrix(tiny):
    result = run(tiny, *HIDDEN)
    weights = read_safetensors(tiny.folder / "run/checkpoints/step-00000003/model.safetensors")
    state = read_safetensors(tiny.folder / "run/checkpoints/step-00000003/optimizer.safetensors")
    assert weights["projections.0.2.weight"].shape == (48, 24)
    assert "projections.0.2.weight/exp_avg" in state
    assert "0.layers.1.ffn_out.weight/exp_avg" in state, "the whole last layer is trained"
    assert not any("pooler" in name for name in state)
    folder = result.folders["student"]
    saved = read_model(folder).encoder.state_dict()
    assert all(torch.equal(weights[f"0.{name}"], value) for name, value in saved.items())
    assert not any("projection" in name for name in read_safetensors(folder / "model.safetensors"))
    card = (folder / "README.md").read_text()
    assert "Distilled from the hidden states of `teacher` (layer 3) for 3 steps" in card
    assert "All layers are trained by this objective, the pooler is not" in card
    assert set(read_metrics(tiny.folder / "run")[0]) >= {"student.hidden", "student.heldout_loss"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (HIDDEN, ["the teacher by transformers, packed", "layer 3 is distilled", "loss hidden: mean squared error"]),
        (
            MLM,
            ["no teacher", "it is not run, students have its tokenizer", "loss mlm: hard labels; 0.15 of the tokens"],
        ),
        (SOFT, ["the teacher by torch, with its head", "students learn what its head says", "loss mlm: soft labels"]),
        (LAYERS, ["the teacher by transformers, packed", "layers 2, 3 are distilled", "loss v2: 12 relation heads"]),
        (
            ["loss={relation_heads: 12, mask_tokens: 0.2, pairs: {key-value: 0.5}}"],
            ["loss v2: 12 relation heads; key-value x 0.5; 0.2 of the tokens are masked"],
        ),
    ],
    ids=lambda one: one[0],
)
def test_a_step_of_every_objective_is_measured(tiny, overrides, said):
    tiny.give_head()
    found = list(dry_run(load_recipe(tiny.recipe(learning_rate=0.02), overrides, kind=Distillation)))
    text = "\n".join(sentence for _, sentence in found)
    assert all(one in text for one in said), text
    assert [label for label, sentence in found if "updates on one batch" in sentence] == ["checked"], text


@pytest.mark.parametrize("overrides", [HIDDEN, MLM, SOFT, [*LAYERS, "students.0.num_layers=3"]], ids=lambda one: one[0])
def test_operations_are_those_that_torch_counts(tiny, overrides):
    """Of linear maps; those of pairs of tokens are by hand, because torch does not count them on processors."""
    tiny.give_head()
    with planned(load_recipe(tiny.recipe(batch_size=2), overrides, kind=Distillation)) as [stage]:
        recipe, plan = stage.recipe, stage.plan
    lengths = np.array([22, 22])
    packed = pack([np.arange(5, 5 + length) for length in lengths])
    teacher = read_model(tiny.teacher, head="mlm")
    student = make_student(plan.students["student"], teacher=tiny.teacher, seed=0).eval()
    layers, objective = student.config.num_layers, recipe.loss.objective
    head = new_head("mlm", student.config, num_labels=0, generator=torch.Generator())
    masked = round(0.15 * 44)  # costs do not know of the frame
    matrix = torch.zeros(48, 24)

    def forward(encoder, compared, of_head) -> None:
        if objective == "relations":
            encoder.relations_of(packed, compared)
        elif objective == "hidden":
            rows = encoder(packed)
            _ = rows @ matrix.T if encoder is student else None
        elif encoder is student or recipe.loss.labels == "soft":
            of_head.score(encoder(packed)[:masked], encoder)

    counts = []
    for encoder, of_head, last in ((teacher.encoder, teacher.head, 3), (student, head, layers)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            forward(encoder, [last], of_head)
        counts.append(counter.get_total_flops())
    squares, is_relations = int((lengths**2).sum()), objective == "relations"
    attention = 4 * squares * (48 * (3 - is_relations) * recipe.loss.has_teacher + 3 * 24 * (layers - is_relations))
    relations = 2 * 3 * layers * squares * (48 + 3 * 24) if is_relations else 0
    known = Lengths.of(lengths, documents=2, source="here")
    found = step_flops(recipe, plan, known)
    rounding = 0.01 if objective == "mlm" else 1e-6
    assert found == pytest.approx(counts[0] + 3 * counts[1] + attention + relations, rel=rounding)


@pytest.mark.parametrize("overrides", [HIDDEN, MLM], ids=lambda one: one[0])
def test_the_disk_holds_what_is_trained_besides_the_student(tiny, overrides):
    with planned(load_recipe(tiny.recipe(steps=3), overrides, kind=Distillation)) as [stage]:
        expected = folder_bytes(stage.recipe, stage.plan)
    run(tiny, *overrides)
    state = read_safetensors(tiny.folder / "run/checkpoints/step-00000003/model.safetensors")
    weights = sum(tensor.numel() for tensor in state.values())
    assert expected["checkpoints"] == 2 * 12 * weights


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [["loss={objective: hidden, layers: all}"], SOFT], ids=lambda one: one[0])
def test_in_bfloat16_a_run_has_about_the_same_loss(tiny, overrides):
    tiny.give_head()
    plain, low = (
        run(tiny, *overrides, f"train.precision={name}", f"out={tiny.folder / name}").metrics["student.heldout_loss"]
        for name in ("fp32", "bf16")
    )
    assert low == pytest.approx(plain, rel=1e-2)
    assert low != plain


def test_a_teacher_runs_outside_of_autocast_wherever_it_runs(tiny, monkeypatch):
    """What it gives in training is what is evaluated and stored; students of bf16 are under autocast in training."""

    def watch(name: str) -> list[bool]:
        original, seen = getattr(RelationCriterion, name), []

        def watched(*arguments):
            seen.append(torch.is_autocast_enabled("cpu"))
            return original(*arguments)

        monkeypatch.setattr(RelationCriterion, name, watched)
        return seen

    of_teacher, of_students = watch("prepare"), watch("_losses")
    run(tiny, "train.precision=bf16")
    assert len(of_teacher) > 3
    assert not any(of_teacher)
    assert set(of_students) == {True, False}, "in steps and in evaluation"


@pytest.mark.slow
def test_a_student_may_learn_the_distribution_of_one_before_it(tiny):
    """Planned before that exists, with a head in its stand-in; then run."""
    losses = ["loss=null", "stages.0.loss={objective: mlm}", "stages.1.loss={objective: mlm, labels: soft}"]
    loaded = load_recipe(tiny.chain(steps=2, warmup_steps=0), losses, kind=Distillation)
    said = "\n".join(sentence for _, sentence in dry_run(loaded))
    assert "stage 1: time" in said
    assert "the teacher by torch, with its head" in said
    assert "advised" in said
    folder = run_distillation(loaded).folders["small"]
    assert "on the distribution of `assistant`" in (folder / "README.md").read_text()


# --- what does not fit ---------------------------------------------------------------------------


def test_soft_labels_need_a_teacher_with_a_trained_head(tiny):
    with pytest.raises(DataError) as caught:
        check(tiny, *SOFT)
    assert str(caught.value) == (
        f"teacher {tiny.teacher}: loss.labels soft needs a teacher with a trained head for masked tokens, such as "
        f"bert-base-uncased; {tiny.teacher}/config.json has architectures ['BertModel']; use labels: hard"
    )
    file = tiny.teacher / "config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "model_type": "ernie", "architectures": ["ErnieForMaskedLM"]}))
    with pytest.raises(DataError, match=r"the head of model_type 'ernie' is not read here; use labels: hard"):
        check(tiny, *SOFT)
    file.write_text(json.dumps({**values, "architectures": ["BertForMaskedLM"]}))
    assert check(tiny, *SOFT)
    with pytest.raises(DataError, match=r"the weights lack the head for masked tokens, which loss\.labels soft"):
        list(dry_run(load_recipe(tiny.recipe(), SOFT, kind=Distillation)))
    file.write_text(json.dumps({**values, "architectures": ["BertForMaskedLM"], "tie_word_embeddings": False}))
    with pytest.raises(DataError, match=r"tie_word_embeddings is false.*; or use loss\.labels hard"):
        check(tiny, *SOFT)


SIZES = TeacherSizes(num_layers=12, layer=12, hidden_size=64, intermediate_size=64, num_heads=8, query_width=64,
                     key_width=64, max_tokens=64, num_parameters=1, vocab_size=100)  # fmt: skip


def student(layers: int) -> EncoderConfig:
    return EncoderConfig(hidden_size=64, num_heads=8, num_layers=layers, intermediate_size=8)


def test_layers_are_compared_at_even_distances_or_as_named():
    students = {"a": student(3), "b": student(5)}
    assert compared_layers(LossSection(), SIZES, students) == {"a": ((3, 12),), "b": ((5, 12),)}
    found = compared_layers(LossSection(layers="all"), replace(SIZES, layer=11), students)
    assert found == {"a": ((1, 4), (2, 8), (3, 11)), "b": ((1, 3), (2, 5), (3, 7), (4, 9), (5, 11))}
    named = LossSection(layers=[12, 2, 2])
    assert compared_layers(named, SIZES, {"a": student(3)}) == {"a": ((1, 12), (2, 2), (3, 2))}
    with pytest.raises(UsageError) as caught:
        compared_layers(named, SIZES, students)
    assert str(caught.value) == (
        "loss.layers is [12, 2, 2], expected one layer of the teacher for each of the 5 layers of student 'b'; use "
        "loss.layers all for even distances"
    )
    with pytest.raises(UsageError, match=r"^loss.layers names layer 13; the teacher has layers 1 to 12$"):
        compared_layers(LossSection(layers=[13, 2, 2]), SIZES, {"a": student(3)})


def test_a_pair_whose_sides_differ_in_width_is_rejected():
    shared = replace(SIZES, key_width=16)
    with pytest.raises(UsageError) as caught:
        relation_heads(LossSection(pairs={"key-value": 1, "value-query": 1}), shared, {"a": student(3)})
    assert str(caught.value) == (
        "loss.pairs: the teacher's queries have width 64 but its keys and values 16 (shared key heads), so value-query "
        "is not a relation; use pairs of equal widths, such as key-value"
    )
    assert relation_heads(LossSection(pairs={"key-value": 1}), shared, {"a": student(3)}) == 16
    assert relation_heads(LossSection(objective="hidden"), shared, {"a": student(3)}) == 0
