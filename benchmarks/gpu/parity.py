"""The same numbers on a GPU as on the CPU, for every path with separate code there.

In: `Cases`. Out: a row for each comparison: the largest difference over the largest number that was expected, and the
bound that it must keep. bfloat16 is compared with float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import distillations
import numpy as np
import torch
from cases import CPU, Cases, random_relations
from torch import Tensor, nn

from minilm.decode.beam import search
from minilm.decode.rescore import best_hypotheses
from minilm.decode.settings import GenerationSettings
from minilm.distill.relation_kernel import loss_implementation
from minilm.distill.relation_loss import Pair, relation_loss, relation_loss_reference, relation_loss_torch
from minilm.infer.engines.torch import TorchEngine
from minilm.model.attention import attend, attend_first
from minilm.model.encoder import Encoder, Relations
from minilm.model.packed_ids import pack_ids
from minilm.model.packing import pack
from minilm.model.seq2seq import PackedSeq2Seq, pack_seq2seq
from minilm.recipe import OptimizationSettings
from minilm.summation import ordered_sum
from minilm.train.accumulate import Batch
from minilm.train.loop import Objective, accumulate_in
from minilm.train.optim import make_optimizer

Row = Mapping[str, object]

ROUNDED = 2e-2
"""Bound in bfloat16, which has 8 bits."""
EXACT, OF_GRADIENTS, OF_STEPS = 1e-5, 1e-4, 1e-3
"""Bounds in float32: of one computation, of gradients through all layers, of losses after updates."""


def compared(check: str, expected: Sequence[Tensor], found: Sequence[Tensor], bound: float, **more: object) -> Row:
    """A row; what is not a number keeps no bound."""
    pairs = [(a.detach().double(), b.detach().cpu().double()) for a, b in zip(expected, found, strict=True)]
    largest = max(float(a.abs().max()) for a, _ in pairs)
    difference = float(torch.stack([(a - b).abs().max() for a, b in pairs]).max()) / max(largest, 1e-30)
    return {"check": check, **more, "difference": difference, "bound": bound, "holds": difference <= bound}


# --- relation loss ------------------------------------------------------------------------------------


def relation_kernels(cases: Cases) -> Iterator[Row]:
    """The kernels and their twin in torch against float64, at tails of blocks; bits do not depend on the batch."""
    lengths = [length for length in (1, 2, 63, 64, 65, 130, 512) if length <= max(cases.size.lengths[-1], 65)]
    packed = pack([np.full(length, 5, dtype=np.int32) for length in lengths])
    widths = cases.size.teacher.hidden_size, cases.size.student.hidden_size
    pairs: tuple[Pair, ...] = (("query", "query"), ("query", "key"))
    for pair in pairs:
        settings = {"pairs": (pair,), "num_relation_heads": cases.size.relation_heads}
        for dtype, bound in ((torch.float32, EXACT), (torch.bfloat16, 1e-2)):
            sides = [random_relations(sum(lengths), width, dtype, CPU) for width in widths]
            exact = _loss_and_gradients(partial(relation_loss_reference, packed=packed), sides, CPU, settings, True)
            moved = packed.to(cases.device)
            for name, loss in ((loss_implementation(cases.device), relation_loss), ("torch", relation_loss_torch)):
                found = _loss_and_gradients(partial(loss, packed=moved), sides, cases.device, settings)
                what = f"relation loss {pair[0]}-{pair[1]}, {str(dtype).removeprefix('torch.')}, by {name}"
                yield compared(what, exact[:1], found[:1], EXACT)
                yield compared(f"{what}, gradients", exact[1:], found[1:], bound)
    yield _bits(cases, sides, lengths, settings)
    numbers = torch.rand(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    same = bool(ordered_sum(numbers) == ordered_sum(numbers.to(cases.device)).cpu())
    yield {"check": "sum of losses, equal bits", "holds": same}


def _bits(cases: Cases, sides: Sequence[Relations], lengths: Sequence[int], settings: Mapping[str, object]) -> Row:
    """Gradients of the last sequence alone, and beside all others."""
    place, last = cases.device, slice(sum(lengths[:-1]), None)
    packed = pack([np.full(length, 5, dtype=np.int32) for length in lengths]).to(place)
    whole = _loss_and_gradients(partial(relation_loss, packed=packed, total=1), sides, place, settings)
    alone = pack([np.full(lengths[-1], 5, dtype=np.int32)]).to(place)
    cut = [Relations(**{name: rows[last] for name, rows in vars(side).items()}) for side in sides]
    found = _loss_and_gradients(partial(relation_loss, packed=alone, total=1), cut, place, settings)
    expected = [rows[last].cpu() for rows in whole[1:]]
    return compared("relation loss, bits of a sequence in a batch and alone", expected, found[1:], 0.0)


def _loss_and_gradients(
    loss: Callable[..., Tensor],
    sides: Sequence[Relations],
    place: torch.device,
    settings: Mapping[str, object],
    exact: bool = False,
) -> list[Tensor]:
    """The loss, then the gradients of the student's query and key where there are any."""
    moved = [
        [
            rows.to(place, torch.float64 if exact else rows.dtype).detach().requires_grad_(side is sides[1])
            for rows in vars(side).values()
        ]
        for side in sides
    ]
    teacher, student = (_relations(parts) for parts in moved)
    value = loss(teacher, student, **settings).sum()
    value.backward()
    return [value[None], *(rows.grad for rows in moved[1] if rows.grad is not None)]


def _relations(rows: Iterable[Tensor]) -> Relations:
    query, key, value = rows
    return Relations(query=query, key=key, value=value)


# --- encoder --------------------------------------------------------------------------------------------


def encoder(cases: Cases) -> Iterator[Row]:
    """Rows and gradients in float32, rows in bfloat16."""
    sequences = cases.sequences(cases.mixed_lengths(cases.size.sequences))
    packed, pairs = pack(sequences), _seq2seq_batch(cases, sequences)
    work: dict[str, Callable[[Encoder, torch.device], Tensor]] = {
        "all rows": lambda model, place: model(packed.to(place)),
        "first rows": lambda model, place: model.first(packed.to(place)),
        "rows of targets": lambda model, place: model.seq2seq(pairs.to(place)),
    }
    for name, run in work.items():
        on_cpu, moved = cases.encoder(), cases.encoder().to(cases.device)
        expected, found = run(on_cpu, CPU), run(moved, cases.device)
        yield compared(f"encoder, {name}, float32", [expected], [found], EXACT)
        for rows in (expected, found):
            rows.square().mean().backward()
        yield compared(f"encoder, {name}, gradients, float32", *_gradients(on_cpu, moved), OF_GRADIENTS)
        with torch.no_grad(), torch.autocast(cases.device.type, dtype=torch.bfloat16):
            rounded = run(moved, cases.device)
        yield compared(f"encoder, {name}, bfloat16", [expected], [rounded], ROUNDED)


def _seq2seq_batch(cases: Cases, sequences: Sequence[np.ndarray]) -> PackedSeq2Seq:
    """Each of the shorter sequences as a source, the first tokens of the next one as its target, with pseudo tokens."""
    sources = [ids[: cases.size.lengths[0]] for ids in sequences]
    targets = [ids[:9] for ids in (*sequences[1:], sequences[0])]
    pseudo = [np.full_like(ids, cases.tokenizer.mask_id) for ids in targets]
    return pack_seq2seq(sources, targets, pseudo=pseudo)


def _gradients(expected: nn.Module, found: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    pairs = [(a.grad, b.grad) for a, b in zip(expected.parameters(), found.parameters(), strict=True)]
    assert all((a is None) == (b is None) for a, b in pairs), "a gradient on one side only"
    kept = [(a, b) for a, b in pairs if a is not None and b is not None]
    return [a for a, _ in kept], [b for _, b in kept]


def attention(cases: Cases) -> Iterator[Row]:
    """In float32 and bfloat16, with gradients: whole sequences, local attention, first rows, shared keys at last."""
    lengths = cases.mixed_lengths(cases.size.sequences)
    packed, heads = pack(cases.sequences(lengths)), cases.size.teacher.num_heads
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randn(sum(lengths), heads, 32, generator=draw) for _ in range(3)]
    shared = [rows[0], *(part[:, : heads // 2] for part in rows[1:])]
    for dtype, bound in ((torch.float32, EXACT), (torch.bfloat16, ROUNDED)):
        for name, function, inputs in (
            ("all rows", attend, rows),
            ("local", partial(attend, window=5), rows),
            ("first rows", attend_first, [rows[0][: packed.num_sequences], *rows[1:]]),
            ("shared keys", attend, shared),
        ):
            expected, found = (
                _attended(function, inputs, packed.to(place), place, dtype=kind)
                for place, kind in ((CPU, torch.float32), (cases.device, dtype))
            )
            yield compared(f"attention, {name}, {dtype}", expected[:1], found[:1], bound)
            yield compared(f"attention, {name}, gradients, {dtype}", expected[1:], found[1:], bound)


def _attended(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], packed: object, place: torch.device, dtype: torch.dtype
) -> list[Tensor]:
    moved = [rows.to(place, dtype, copy=True).requires_grad_() for rows in inputs]
    found = function(*moved, packed)
    found.float().square().sum().backward()
    return [found, *(rows.grad for rows in moved if rows.grad is not None)]


# --- what users run -------------------------------------------------------------------------------------


def encode(cases: Cases) -> Iterator[Row]:
    """Vectors of texts."""
    batch = pack_ids(cases.sequences(cases.mixed_lengths(cases.size.sequences)))
    model = cases.model("classification")
    for pooling in ("cls", "mean"):
        expected = torch.from_numpy(TorchEngine(copy.deepcopy(model)).pooled(batch, [pooling]))
        for precision, bound in (("fp32", EXACT), ("bf16", ROUNDED)):
            engine = TorchEngine(copy.deepcopy(model).to(cases.device), precision=precision)
            found = torch.from_numpy(engine.pooled(batch, [pooling]))
            yield compared(f"encode, {pooling}, {precision}", [expected], [found], bound)


def beam_search(cases: Cases) -> Iterator[Row]:
    """The same targets."""
    longest = cases.size.lengths[-1]
    settings = GenerationSettings(beam_size=4, max_target_tokens=min(24, longest // 4))
    sources, model = cases.sequences([longest * 3 // 4] * 8), cases.generator()
    found = []
    for place in (CPU, cases.device):
        decoder = TorchEngine(copy.deepcopy(model).to(place)).decoder(cases.tokenizer, pos_shift="none")
        traces = search(decoder, sources, settings)
        end = cases.tokenizer.sep_id
        found.append([best_hypotheses(trace, end_id=end, length_penalty=0.0)[0].ids for trace in traces])
    same = sum(a == b for a, b in zip(*found, strict=True))
    whole = len(sources)
    yield {"check": "beam search, float32, equal targets", "found": same, "of": whole, "holds": same == whole}


def teachers(cases: Cases) -> Iterator[Row]:
    """Relations of a packed and of a padded teacher; those that are stored on the device, read again."""
    documents = cases.documents(cases.mixed_lengths(cases.size.sequences))
    packed = pack(documents.token_ids)
    for way in ("padded", "packed"):
        expected = _projections(distillations.teacher(cases, way, CPU, "fp32").relations(packed))
        for precision, bound in (("fp32", EXACT), ("bf16", ROUNDED)):
            moved = distillations.teacher(cases, way, cases.device, precision)
            found = _projections(moved.relations(packed.to(cases.device)))
            yield compared(f"teacher, {way}, {precision}", expected, found, bound, by=moved.engine)
    for precision in ("bf16", "int8"):
        cached = distillations.stored(cases, documents, precision)
        found = _projections(cached.document_relations(packed.to(cases.device), np.arange(len(documents))))
        yield compared(f"teacher, packed, stored in {precision}", expected, found, ROUNDED)


def _projections(relations: Relations) -> list[Tensor]:
    return [relations.query, relations.key, relations.value]


def steps(cases: Cases) -> Iterator[Row]:
    """Steps in several microbatches: of each criterion of a distillation, and of a fine-tuning; updates of two."""
    lengths, batch = cases.mixed_lengths(cases.size.sequences), cases.size.sequences // 2
    share = {"batch": batch, "tokens": max(sum(lengths) // 4, lengths[-1])}
    learnt = {
        f"distillation, {learns}": partial(distillations.objective, cases, precision="fp32", learns=learns)
        for learns in distillations.CRITERIA
    }
    for name, make in {**learnt, "fine-tuning": cases.finetuning}.items():
        on_cpu, moved = (make(lengths=lengths, place=place, **share) for place in (CPU, cases.device))
        expected, found = accumulated(on_cpu, 0), accumulated(moved, 0)
        yield compared(f"{name}, loss, float32", [expected], [found], EXACT)
        yield compared(f"{name}, gradients, float32", *_gradients(on_cpu.module, moved.module), OF_GRADIENTS)
        if name in ("distillation, relations", "fine-tuning"):
            losses = [_losses_of_updates(one) for one in (on_cpu, moved)]
            yield compared(f"{name}, losses of three steps, float32", *losses, OF_STEPS)


def accumulated(objective: Objective[Batch], step: int) -> Tensor:
    """The loss of a step; its gradient is in the parameters."""
    return accumulate_in("fp32", objective, objective.batch(step)).value[None]


def _losses_of_updates(objective: Objective[Batch]) -> list[Tensor]:
    optimizer, losses = make_optimizer(objective.parameters, OptimizationSettings(learning_rate=1e-3)), []
    for step in range(3):
        optimizer.zero_grad()
        losses.append(accumulated(objective, step))
        optimizer.step()
    return losses
