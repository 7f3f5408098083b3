"""Proves the relation losses: numbers and gradients of the published formulas, for golden and random inputs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tests.interpreted import WHY_NOT

from minilm.distill import relation_kernel
from minilm.distill import relation_loss as loss_module
from minilm.distill.relation_kernel import loss_implementation, triton_losses
from minilm.distill.relation_loss import (
    V1_PAIRS,
    V2_PAIRS,
    Relations,
    relation_loss,
    relation_loss_reference,
    relation_loss_torch,
)
from minilm.distill.teacher import load_teacher
from minilm.errors import UsageError
from minilm.kernels.library import find_library
from minilm.model.checkpoint import read_model
from minilm.model.encoder import Encoder
from minilm.model.packing import pack
from minilm.model.tensor_names import hf_names, to_hf

PARTS = {"q": "query", "k": "key", "v": "value"}
GOLDEN_CASES = ("base_right_padded", "arbitrary_mask", "large_teacher")


def relation_loss_triton(*arguments, **settings):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_module, "kernel_for", lambda device: triton_losses)
        return relation_loss(*arguments, **settings)


# The first is the compiled kernel where there is one.
LOSSES = {"default": relation_loss, "torch": relation_loss_torch, "reference": relation_loss_reference}
GOLDEN_LOSSES = [
    *LOSSES.values(),
    pytest.param(relation_loss_triton, marks=pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)),
]


def batch_of(lengths):
    return pack([np.ones(length, dtype=np.int64) for length in lengths])


def random_relations(packed, heads, width, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (packed.num_tokens, heads, width)
    return Relations(**{part: torch.randn(shape, generator=generator) for part in PARTS.values()})


def requiring_grad(relations):
    return Relations(**{part: getattr(relations, part).clone().requires_grad_() for part in PARTS.values()})


def gradients(relations):
    return {part: getattr(relations, part).grad for part in PARTS.values()}


# --- golden numbers ------------------------------------------------------------------------------


def golden_case(golden_dir, golden_file, case):
    """Packed batch, real rows of teacher and student, lines of numbers, gradients `[T, E]`."""
    folder = golden_dir / "distil"
    inputs, grads = (load_file(golden_file(f"distil/{case}_{kind}.safetensors")) for kind in ("inputs", "grads"))
    mask = inputs["mask"].bool()
    sides = [
        Relations(**{ours: inputs[f"{side}.{theirs}"][mask].unflatten(1, (1, -1)) for theirs, ours in PARTS.items()})
        for side in ("teacher", "student")
    ]
    lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text().split("\n") if line]
    lines = [line for line in lines if line["case"] == case and "loss" in line]
    return batch_of(mask.sum(1).tolist()), *sides, lines, {name: grad[mask] for name, grad in grads.items()}


@pytest.mark.parametrize("loss", GOLDEN_LOSSES)
@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden_losses_and_gradients_are_reproduced(golden_dir, golden_file, case, loss):
    packed, teacher, student, lines, expected = golden_case(golden_dir, golden_file, case)
    assert len(lines) >= 6
    for line in lines:
        pair = tuple(PARTS[letter] for letter in line["pair"])
        mine = requiring_grad(student)
        values = loss(teacher, mine, packed, pairs=(pair,), num_relation_heads=line["heads"])
        assert values.tolist() == pytest.approx([line["value"]], abs=2e-6)
        values.sum().backward()
        for letter in set(line["pair"]):
            gradient = expected[f"grad.{line['loss']}.student.{letter}"]
            found = gradients(mine)[PARTS[letter]].flatten(1)
            assert float((found - gradient).abs().max()) <= 1e-5 * float(gradient.abs().max())


@pytest.mark.parametrize("loss", GOLDEN_LOSSES)
@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden_token_means_are_reproduced(golden_dir, golden_file, case, loss):
    packed, teacher, student, lines, _ = golden_case(golden_dir, golden_file, case)
    for line in lines:
        pair = tuple(PARTS[letter] for letter in line["pair"])
        settings = {"pairs": (pair,), "num_relation_heads": line["heads"], "normalization": "token"}
        value = loss(teacher, student, packed, **settings)
        assert value.tolist() == pytest.approx([line["token_mean_value"]], abs=2e-6)


@pytest.mark.parametrize("line", range(4))
def test_golden_end_to_end_numbers_are_reproduced(golden_dir, line):
    """Teacher, student, loss and every gradient norm, as computed by an independent implementation."""
    folder = golden_dir / "distil"
    golden = json.loads((folder / "tiny_end_to_end.jsonl").read_text().split("\n")[line])
    batch = load_file(folder / golden["inputs"])
    real = batch["attention_mask"].bool()
    ids, kinds = (
        [rows[real[index]].numpy() for index, rows in enumerate(batch[name])]
        for name in ("input_ids", "token_type_ids")
    )
    packed = pack(ids, segments=kinds)
    student = read_model(folder / "tiny_student").encoder
    weights = golden["relations"]
    losses = relation_loss(
        load_teacher(golden_dir / "model", layer=golden["teacher_layer"]).relations(packed),
        student.relations(packed, layer=golden["student_layer"]),
        packed,
        pairs=tuple((PARTS[name[0]], PARTS[name[1]]) for name in weights),
        num_relation_heads=golden["relation_heads"],
    )
    total = (losses * torch.tensor(list(weights.values()))).sum()
    total.backward()
    assert total.item() == pytest.approx(golden["loss_f64"], abs=1e-5)

    found = {f"encoder.{n}": w.grad for n, w in student.named_parameters() if w.grad is not None}
    norms = {name: float(grad.norm()) for name, grad in to_hf(found, family="bert", head=None).items()}
    assert set(norms) == set(golden["student_grad_norms_f64"])
    for name, norm in golden["student_grad_norms_f64"].items():
        assert norms[name] == pytest.approx(norm, rel=1e-5, abs=1e-6), name

    trained = set(student.relation_parameters())
    untouched = {
        theirs
        for name, weight in student.named_parameters()
        if weight not in trained
        for theirs in hf_names(f"encoder.{name}", family="bert", head=None)
    }
    assert untouched == set(golden["student_params_without_grad"])


# --- against the plain twin -----------------------------------------------------------------------

lengths = st.lists(st.one_of(st.integers(1, 6), st.integers(1, 70)), min_size=1, max_size=6)
seeds = st.integers(0, 2**31)
FEW = settings(max_examples=25, deadline=None)


@FEW
@given(lengths, seeds, st.sampled_from([1, 2, 3, 4, 6, 12]), st.sampled_from(["sequence", "token"]))
def test_both_equal_the_plain_twin(lengths, seed, heads, normalization):
    packed = batch_of(lengths)
    teacher = random_relations(packed, 4, 9, seed)
    upstream = torch.tensor([1.0, 0.5, 2.0, 3.0, 1.5])
    pairs = (*V2_PAIRS, *V1_PAIRS)
    found = {}
    for name, loss in LOSSES.items():
        student = requiring_grad(random_relations(packed, 6, 4, seed + 1))
        settings = {"pairs": pairs, "num_relation_heads": heads, "normalization": normalization}
        values = loss(teacher, student, packed, **settings)
        assert values.shape == (5,)
        assert values.dtype == torch.float64
        (values * upstream).sum().backward()
        found[name] = values.detach(), gradients(student)
    plain = found.pop("reference")
    for ours in found.values():
        torch.testing.assert_close(ours[0], plain[0], atol=1e-5, rtol=1e-5)
        for part, gradient in plain[1].items():
            assert float((ours[1][part] - gradient).abs().max()) <= 1e-5 * max(0.1, float(gradient.abs().max()))


@FEW
@given(lengths, seeds)
def test_low_precision_projections_stay_close(lengths, seed):
    packed = batch_of(lengths)
    teacher = random_relations(packed, 4, 8, seed)
    student = random_relations(packed, 4, 8, seed + 1)
    settings = {"pairs": V2_PAIRS, "num_relation_heads": 4}
    exact = relation_loss(teacher, student, packed, **settings)
    half = [
        Relations(**{part: getattr(side, part).bfloat16() for part in PARTS.values()}) for side in (teacher, student)
    ]
    mine = requiring_grad(half[1])
    values = relation_loss(half[0], mine, packed, **settings)
    torch.testing.assert_close(values, exact, atol=2e-2, rtol=2e-2)
    values.sum().backward()
    assert {gradient.dtype for gradient in gradients(mine).values()} == {torch.bfloat16}


@FEW
@given(lengths, seeds, st.sampled_from([1, 4, 8]))
def test_equal_relations_have_no_loss_and_no_gradient(lengths, seed, heads):
    packed = batch_of(lengths)
    teacher = random_relations(packed, 4, 8, seed)
    student = requiring_grad(teacher)
    values = relation_loss(teacher, student, packed, pairs=V2_PAIRS, num_relation_heads=heads)
    values.sum().backward()
    assert float(values.detach().abs().max()) <= 1e-6
    assert max(float(gradient.abs().max()) for gradient in gradients(student).values()) <= 1e-6


@FEW
@given(lengths, seeds)
def test_the_loss_is_never_negative_and_zero_for_one_token(lengths, seed):
    packed = batch_of(lengths)
    teacher, student = (random_relations(packed, 2, 6, seed + side) for side in (0, 1))
    values = relation_loss(teacher, student, packed, pairs=V1_PAIRS, num_relation_heads=2)
    assert float(values.min()) >= -1e-6
    if max(lengths) == 1:
        assert float(values.detach().abs().max()) <= 1e-6


@FEW
@given(lengths, seeds, st.sampled_from(["sequence", "token"]))
def test_the_order_of_sequences_changes_nothing(lengths, seed, normalization):
    packed = batch_of(lengths)
    order = np.random.default_rng(seed).permutation(len(lengths))
    sides = [random_relations(packed, 3, 8, seed + side) for side in (0, 1)]
    moved = [
        Relations(
            **{
                part: torch.cat([getattr(side, part).split(lengths)[index] for index in order])
                for part in PARTS.values()
            }
        )
        for side in sides
    ]
    settings = {"pairs": V2_PAIRS, "num_relation_heads": 6, "normalization": normalization}
    torch.testing.assert_close(
        relation_loss(*moved, batch_of([lengths[index] for index in order]), **settings),
        relation_loss(*sides, packed, **settings),
        atol=1e-6,
        rtol=1e-5,
    )


@pytest.mark.parametrize("loss", [relation_loss, relation_loss_torch])
@pytest.mark.parametrize("length", [513, 600])
def test_sequences_larger_than_one_block_agree_with_the_twin(length, loss):
    packed = batch_of([length, 3])
    teacher, student = (random_relations(packed, 2, 4, side) for side in (0, 1))
    settings = {"pairs": V2_PAIRS, "num_relation_heads": 2}
    torch.testing.assert_close(
        loss(teacher, student, packed, **settings),
        relation_loss_reference(teacher, student, packed, **settings),
        atol=1e-5,
        rtol=1e-5,
    )


def test_all_nine_pairs_of_projections_have_a_relation():
    packed = batch_of([5, 9, 2])
    pairs = tuple((a, b) for a in PARTS.values() for b in PARTS.values())
    found = {}
    for name, loss in LOSSES.items():
        student = requiring_grad(random_relations(packed, 2, 6, 1))
        values = loss(random_relations(packed, 4, 8, 0), student, packed, pairs=pairs, num_relation_heads=4)
        values.square().sum().backward()
        found[name] = [values.detach(), *gradients(student).values()]
    for name in ("default", "torch"):
        torch.testing.assert_close(found[name], found["reference"], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("normalization", ["sequence", "token"])
def test_parts_of_a_batch_add_up_and_their_gradients_are_its_bits(normalization):
    """As microbatches do: the mean is over all sequences or tokens, wherever the batch is cut; sums are in float64."""
    lengths = [3, 4, 4, 9, 20]
    whole = batch_of(lengths)
    teacher, student = random_relations(whole, 3, 8, 0), random_relations(whole, 3, 8, 1)
    settings = {"pairs": (*V2_PAIRS, V1_PAIRS[0]), "num_relation_heads": 6, "normalization": normalization}
    mine = requiring_grad(student)
    expected = relation_loss(teacher, mine, whole, **settings)
    expected.sum().backward()
    total = len(lengths) if normalization == "sequence" else sum(lengths)
    for cut in (1, 3):
        rows, values, found = sum(lengths[:cut]), [], {part: [] for part in PARTS.values()}
        for place, sequences in ((slice(0, rows), lengths[:cut]), (slice(rows, None), lengths[cut:])):
            sides = [
                Relations(**{part: getattr(side, part)[place] for part in PARTS.values()})
                for side in (teacher, student)
            ]
            part_of_student = requiring_grad(sides[1])
            value = relation_loss(sides[0], part_of_student, batch_of(sequences), total=total, **settings)
            value.sum().backward()
            values.append(value.detach())
            for name, gradient in gradients(part_of_student).items():
                found[name].append(gradient)
        torch.testing.assert_close(sum(values), expected.detach(), atol=1e-7, rtol=1e-6)
        if loss_implementation("cpu") == "compiled":
            torch.testing.assert_close(sum(values), expected.detach(), atol=0, rtol=1e-14)
            assert all(torch.equal(torch.cat(found[name]), gradient) for name, gradient in gradients(mine).items())


@pytest.mark.parametrize("loss", LOSSES.values())
def test_projections_of_another_batch_are_rejected(loss):
    teacher, student = random_relations(batch_of([4]), 2, 4, 0), random_relations(batch_of([5]), 2, 4, 1)
    with pytest.raises(UsageError) as caught:
        loss(teacher, student, batch_of([5]), pairs=V2_PAIRS, num_relation_heads=2)
    assert str(caught.value) == (
        "query and query have 4 and 4 rows, but the batch has 5 tokens; expected the projections of this batch"
    )


def test_without_kernels_torch_computes_and_the_log_says_so_once(monkeypatch, caplog):
    packed = batch_of([4, 2])
    teacher, student = (random_relations(packed, 2, 4, side) for side in (0, 1))
    settings = {"pairs": V2_PAIRS, "num_relation_heads": 2}
    monkeypatch.setenv("MINILM_KERNELS", "off")
    find_library.cache_clear()
    relation_kernel._report.cache_clear()
    try:
        with caplog.at_level("INFO", logger="minilm"):
            found = [relation_loss(teacher, student, packed, **settings) for _ in range(2)]
        assert loss_implementation("cpu") == "torch"
    finally:
        monkeypatch.undo()
        find_library.cache_clear()
    assert all(torch.equal(one, relation_loss_torch(teacher, student, packed, **settings)) for one in found)
    assert caplog.messages == [
        "relation losses are computed in torch, which is slower: there are no compiled kernels (MINILM_KERNELS=off is "
        "set)"
    ]


def test_no_gradient_is_kept_for_a_student_that_does_not_learn():
    packed = batch_of([4, 2])
    teacher, student = (random_relations(packed, 2, 4, side) for side in (0, 1))
    assert not relation_loss(teacher, student, packed, pairs=V2_PAIRS, num_relation_heads=2).requires_grad


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("heads", "width"), [(5, 8), (0, 8), (-1, 8), (8, 12)])
def test_relation_heads_must_divide_both_widths(loss, heads, width):
    packed = batch_of([3])
    teacher, student = random_relations(packed, 2, 4, 0), random_relations(packed, 3, 4, 1)
    with pytest.raises(UsageError) as caught:
        LOSSES[loss](teacher, student, packed, pairs=V2_PAIRS, num_relation_heads=heads)
    assert str(caught.value) == f"{heads} relation heads do not divide the width {width}; change loss.relation_heads"


# --- what an encoder provides --------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, -1, 3])
def test_a_layer_that_the_encoder_lacks_is_rejected(golden_dir, layer):
    encoder = read_model(golden_dir / "distil" / "tiny_student").encoder
    with pytest.raises(UsageError) as caught:
        encoder.relations(batch_of([3]), layer=layer)
    assert str(caught.value) == f"layer is {layer}; the encoder has layers 1 to 2"


@pytest.mark.parametrize("pooler", [True, False])
def test_relation_parameters_are_exactly_those_that_learn(golden_dir, pooler):
    config = replace(read_model(golden_dir / "distil" / "tiny_student").encoder.config)
    encoder = Encoder(config, pooler=pooler)
    encoder.reset(torch.Generator().manual_seed(0))
    packed = batch_of([3, 5])
    relations = encoder.relations(packed)
    sum(getattr(relations, part).square().sum() for part in PARTS.values()).backward()
    learning = [weight for weight in encoder.parameters() if weight.grad is not None]
    assert {id(weight) for weight in learning} == {id(weight) for weight in encoder.relation_parameters()}
    last = encoder.relations(packed, layer=2)
    assert torch.equal(relations.query, last.query)
