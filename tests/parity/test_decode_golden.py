"""Proves that decoding reproduces the original s2s-ft code: tokens and traces exactly, scores to 1e-4.

`eps1e-5` is the unmodified original, `eps1e-12` the original with the LayerNorm eps of the configuration. Compared
where the original itself is stable (float64 and float32 agree).
"""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from minilm.decode.beam import search
from minilm.decode.decoder import Decoder, use_original_eps
from minilm.decode.rescore import RescoreSettings, best_hypotheses, rescored
from minilm.decode.sampling import choose_all
from minilm.decode.settings import GenerationSettings
from minilm.decode.traces import Trace
from minilm.files.tensors import read_safetensors
from minilm.model.checkpoint import read_model
from minilm.text.detokenize import text_of, truncated_at_end
from minilm.text.tokenizer import Tokenizer

EPS = ("eps1e-12", "eps1e-5")
BANS = {"nob": (0, ""), "ng2": (2, ""), "ng2i": (2, ".|[X_SEP]"), "ng3": (3, ""), "ng3i": (3, ".|[X_SEP]")}


class Golden:
    """The tiny model with one eps, its sources, and the original's outputs for them."""

    def __init__(self, folder, eps):
        self.folder = folder / "decode" / eps
        self.tokenizer = Tokenizer.load(folder / "model")
        self.model = read_model(folder / "model", head="mlm").requires_grad_(False)
        if eps == "eps1e-5":
            use_original_eps(self.model)
        lines = (folder / "decode" / "sources.jsonl").read_text().rstrip("\n").split("\n")
        self.sources = [
            np.array([self.tokenizer.token_to_id(token) for token in json.loads(line)["src"]], dtype=np.int32)
            for line in lines
        ]
        self.traces = read_safetensors(self.folder / "beam_traces.safetensors")
        self.predictions = self.rows("beam_preds")

    def rows(self, name):
        return [json.loads(line) for line in (self.folder / f"{name}.jsonl").read_text().split("\n") if line]

    def decoder(self, pos_shift="none"):
        decoder = Decoder(self.model, self.tokenizer, pos_shift=pos_shift)
        return decoder, [decoder.frame(source) for source in self.sources]

    def stored(self, name, number):
        """The original's trace of one source up to its last usable frame."""
        used = int(self.traces[f"{name}.last_frame"][number]) + 1
        scores, ids, parents = (self.traces[f"{name}.{part}"][number, :used] for part in ("scores", "wids", "ptrs"))
        return Trace(scores=scores.tolist(), ids=ids.tolist(), parents=parents.tolist())

    def tokens(self, hypothesis):
        return truncated_at_end(hypothesis.ids, self.tokenizer)

    def best(self, trace, length_penalty):
        [best] = best_hypotheses(trace, end_id=self.tokenizer.sep_id, length_penalty=length_penalty)
        return self.tokens(best)

    def ignored(self, words):
        return frozenset(self.tokenizer.token_to_id(word) for word in words.split("|") if word)


@pytest.fixture(scope="module")
def goldens(golden_dir):
    return {eps: Golden(golden_dir, eps) for eps in EPS}


def settings(golden, *, beam, steps, least, ban, **options):
    size, words = BANS[ban]
    rules = {"min_tokens": least, "ban_ngrams": size, **options}
    return GenerationSettings(beam_size=beam, max_target_tokens=steps, **rules), golden.ignored(words)


def differing(stable, ours, theirs):
    """Numbers of the sources that should agree but do not."""
    compared = zip(stable, ours, theirs, strict=True)
    return [number for number, (is_stable, own, other) in enumerate(compared) if is_stable and own != other]


@pytest.mark.parametrize("eps", EPS)
def test_greedy_ids_and_texts_equal_the_original(goldens, eps):
    golden = goldens[eps]
    decoder, sources = golden.decoder()
    for row in golden.rows("greedy"):
        options = GenerationSettings(max_target_tokens=row["max_tgt_length"], min_tokens=0)
        chosen = choose_all(decoder, sources, options)
        ids = [golden.tokens(best) for [best] in chosen]
        assert differing(row["stable"], ids, row["pred_ids"]) == []
        texts = [text_of(best.ids, golden.tokenizer) for [best] in chosen]
        assert differing(row["stable"], texts, row["text"]) == []


@pytest.mark.parametrize("eps", EPS)
def test_greedy_continues_past_an_end_token_as_the_original_does(goldens, eps):
    """`raw_ids`: the original never stops; fed with its own tokens, every next token is the most probable."""
    golden = goldens[eps]
    decoder, sources = golden.decoder()
    [row] = [row for row in golden.rows("greedy") if row["max_tgt_length"] == 20]
    raw = torch.tensor(row["raw_ids"])
    cache, scores = decoder.start(sources, beams=1, room=20)
    parents = torch.zeros(len(sources), 1, dtype=torch.int64)
    found = [scores.argmax(1)]
    for step in range(1, 20):
        found.append(decoder.step(cache, raw[:, step - 1 : step], parents, step=step).argmax(1))
    assert differing(row["stable"], torch.stack(found, 1).tolist(), row["raw_ids"]) == []


def beginning(trace, frames):
    """The trace that a search for fewer tokens would have left."""
    return Trace(scores=trace.scores[:frames], ids=trace.ids[:frames], parents=trace.parents[:frames])


@pytest.mark.parametrize("ban", BANS)
@pytest.mark.parametrize("least", [1, 8])
@pytest.mark.parametrize("beam", [2, 5])
@pytest.mark.parametrize("eps", EPS)
def test_beam_search_outputs_and_traces_equal_the_original(goldens, eps, beam, least, ban):
    """120 configurations per folder: 40 searches, each with three length penalties.

    The longer searches run to their end and are compared with the recorded traces, frame by frame; the result of a
    shorter one is in their beginning. With one eps, the shorter search also runs for one penalty: stopping early must
    change nothing.
    """
    golden = goldens[eps]
    decoder, sources = golden.decoder()
    options = {"beam": beam, "least": least, "ban": ban}
    name = f"k{beam}_t48_m{least}_{ban}"
    whole = search(decoder, sources, *settings(golden, steps=48, traces=True, **options))
    rows = [row for row in golden.predictions if row["trace"].replace("_t20_", "_t48_") == name]
    assert len(rows) == 6
    shown = random.Random(f"{eps} {name}").choice([row["length_penalty"] for row in rows])
    for row in rows:
        is_short, penalty = row["max_tgt_length"] == 20, row["length_penalty"]
        ids = [golden.best(beginning(trace, 20) if is_short else trace, penalty) for trace in whole]
        assert differing(row["stable"], ids, row["pred_ids"]) == []
        if is_short and penalty == shown and eps == EPS[0]:
            short = search(decoder, sources, *settings(golden, steps=20, length_penalty=penalty, **options))
            ids = [golden.best(trace, penalty) for trace in short]
            assert differing(row["stable"], ids, row["pred_ids"]) == []
    if f"{name}.scores" not in golden.traces:  # not recorded for this eps
        return
    stable = next(row["stable"] for row in rows if row["trace"] == name and row["length_penalty"] == 0)
    for number, trace in enumerate(whole):
        if stable[number]:
            stored = golden.stored(name, number)
            assert (trace.ids, trace.parents, trace.complete) == (stored.ids, stored.parents, True)
            assert np.abs(np.array(trace.scores) - np.array(stored.scores)).max() < 1e-4


@pytest.mark.parametrize("eps", EPS)
def test_traces_of_a_shorter_search_equal_the_original(goldens, eps):
    golden = goldens[eps]
    decoder, sources = golden.decoder()
    name = "k5_t20_m8_ng3"
    traces = search(decoder, sources, *settings(golden, beam=5, steps=20, least=8, ban="ng3", traces=True))
    [row] = [row for row in golden.predictions if row["trace"] == name and row["length_penalty"] == 0]
    for number, trace in enumerate(traces):
        if row["stable"][number]:
            stored = golden.stored(name, number)
            assert (trace.ids, trace.parents) == (stored.ids, stored.parents)
            assert np.abs(np.array(trace.scores) - np.array(stored.scores)).max() < 1e-4


@pytest.mark.parametrize("version", ["HEAD", "202003"])
@pytest.mark.parametrize("eps", EPS)
def test_position_shift_equals_the_original(goldens, eps, version):
    golden = goldens[eps]
    decoder, sources = golden.decoder("head" if version == "HEAD" else "2020-03")
    for row in golden.rows(f"pos_shift_s2sft-{version}"):
        steps, penalty = row["max_tgt_length"], row["length_penalty"]
        if row["beam"] == 1:
            sampling = GenerationSettings(max_target_tokens=steps, min_tokens=0)
            ids = [golden.tokens(best) for [best] in choose_all(decoder, sources, sampling)]
        else:
            rules = {"min_tokens": row["min_len"], "ban_ngrams": row["ngram_size"] or 0}
            beams = GenerationSettings(beam_size=row["beam"], max_target_tokens=steps, length_penalty=penalty, **rules)
            ids = [golden.best(trace, penalty) for trace in search(decoder, sources, beams)]
        assert differing(row["stable"], ids, row["pred_ids"]) == []


def test_rescoring_by_the_intended_and_the_swapped_rule_equals_the_original(goldens):
    """`get_best_sequence` on the recorded traces; `swapped_ids` contains the results that change."""
    golden = goldens["eps1e-12"]
    rows = golden.rows("gen_seq_best_sequence")
    assert len({row["trace"] for row in rows}) >= 2
    for row in rows:
        intended, swapped = (
            [
                list(
                    rescored(
                        golden.stored(row["trace"], number),
                        RescoreSettings(alpha=row["alpha"], swapped=is_swapped),
                        end_id=golden.tokenizer.sep_id,
                        pad_id=golden.tokenizer.pad_id,
                    )
                )
                for number in range(len(golden.sources))
            ]
            for is_swapped in (False, True)
        )
        if row["best_ids_correct_eos_pad"] is not None:
            assert intended == row["best_ids_correct_eos_pad"]
        changed = {str(number): ids for number, ids in enumerate(swapped) if ids != intended[number]}
        assert changed == row["swapped_ids"]
