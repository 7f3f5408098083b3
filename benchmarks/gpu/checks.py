"""What only a GPU can show: the packed encoder, its losses and its search against the CPU; rates beside padding.

`python benchmarks/gpu/checks.py` writes `benchmarks/results/gpu.json`; `--device cpu` only tests the script.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ab import interleaved, save
from decode import best, make_model, make_sources, tokenizer
from texts import real_share

from minilm.bench.workloads import paragraphs
from minilm.decode.beam import search
from minilm.decode.settings import GenerationSettings
from minilm.distill.relation_loss import V2_PAIRS, relation_loss
from minilm.infer.engines.torch import TorchEngine
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.packing import pack
from minilm.model.seq2seq import PackedSeq2Seq, pack_seq2seq

SIZE = 64
ROUNDS = 20
CPU = torch.device("cpu")


def main() -> None:
    """Compare, then measure; every row is one number with what it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    device = torch.device(parser.parse_args().device)
    sequences = sorted(tokenizer().encode(paragraphs()[:SIZE], max_length=512), key=len)
    rows = [*parity(sequences, device), *rates(sequences, device)]
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    rows = [{"device": name, **row} for row in rows]
    if device.type == "cuda":
        save("gpu", rows)
    else:
        print(*rows, sep="\n")


def new_encoder(layers: int = 6) -> Encoder:
    """L6-H384 or L12-H384 with random weights, no dropout."""
    encoder = Encoder(EncoderConfig.preset(f"L{layers}-H384"))
    encoder.reset(torch.Generator().manual_seed(0))
    return encoder.eval()


# --- the same numbers as on the CPU ----------------------------------------------------------------


def parity(sequences: Sequence[np.ndarray], device: torch.device) -> list[dict[str, object]]:
    """Largest differences to the CPU in fp32, least cosine in bf16, and whether a search finds the same targets."""
    packed, pairs = pack(sequences), seq2seq_batch(sequences)
    rows: list[dict[str, object]] = []
    cases: dict[str, Callable[[Encoder, torch.device], Tensor]] = {
        "hidden rows": lambda encoder, place: encoder(packed.to(place)),
        "first rows": lambda encoder, place: encoder.first(packed.to(place)),
        "seq2seq rows": lambda encoder, place: encoder.seq2seq(pairs.to(place)),
    }
    for name, run in cases.items():
        on_cpu, moved = new_encoder(), new_encoder().to(device)
        expected, found = run(on_cpu, CPU), run(moved, device)
        rows.append({"check": f"{name}, fp32", "largest difference": difference(expected, found)})
        expected.square().mean().backward()
        found.square().mean().backward()
        rows.append({"check": f"{name}, gradient, fp32", "largest difference": gradient_difference(on_cpu, moved)})
        with torch.autocast(device.type, dtype=torch.bfloat16):
            halved = run(moved, device)
        cosine = torch.cosine_similarity(expected, halved.float().cpu(), dim=1).min()
        rows.append({"check": f"{name}, bf16", "least cosine": float(cosine)})
    return [*rows, relation_row(sequences, device), search_row(device)]


def seq2seq_batch(sequences: Sequence[np.ndarray]) -> PackedSeq2Seq:
    """Each sequence as a source, the first tokens of the next one as its target, with pseudo tokens."""
    targets = [ids[:24] for ids in np.roll(np.array(sequences, dtype=object), -1)]
    pseudo = [np.full_like(ids, tokenizer().mask_id) for ids in targets]
    return pack_seq2seq(list(sequences), targets, pseudo=pseudo)


def relation_row(sequences: Sequence[np.ndarray], device: torch.device) -> dict[str, object]:
    """The distillation loss of a deeper teacher and its gradient."""
    losses, students = [], []
    for place in (CPU, device):
        packed, teacher, student = pack(sequences).to(place), new_encoder(12).to(place), new_encoder().to(place)
        with torch.no_grad():
            target = teacher.relations(packed)
        found = student.relations(packed)
        loss = relation_loss(target, found, packed, pairs=V2_PAIRS, num_relation_heads=48).sum()
        loss.backward()
        losses.append(loss.detach())
        students.append(student)
    return {
        "check": "relation loss, fp32",
        "largest difference": difference(*losses),
        "gradient": gradient_difference(*students),
    }


def search_row(device: torch.device) -> dict[str, object]:
    """A beam search of long sources."""
    settings = GenerationSettings(beam_size=5, max_target_tokens=24)
    model, sources = make_model("L6-H384", end_bias=0.0), make_sources(8)
    engines = [TorchEngine(copy.deepcopy(model).to(place)) for place in (CPU, device)]
    found = [best(search(one.decoder(tokenizer(), pos_shift="none"), sources, settings)) for one in engines]
    same = sum(a == b for a, b in zip(*found, strict=True))
    return {"check": "beam search, fp32", "equal targets": same, "of": len(sources)}


def difference(expected: Tensor, found: Tensor) -> float:
    """Largest absolute difference."""
    return float((expected - found.cpu()).detach().abs().max())


def gradient_difference(expected: Encoder, found: Encoder) -> float:
    """Largest absolute difference of any gradient."""
    pairs = [(a.grad, b.grad) for a, b in zip(expected.parameters(), found.parameters(), strict=True)]
    assert all((a is None) == (b is None) for a, b in pairs), "a gradient on one side only"
    return float(torch.stack([(a - b.cpu()).abs().max() for a, b in pairs if a is not None]).max())  # NaN stays NaN


# --- how fast --------------------------------------------------------------------------------------


def rates(sequences: Sequence[np.ndarray], device: torch.device) -> list[dict[str, object]]:
    """Sequences a second of both sides in bf16, in turn: reading, and a training step without its optimizer."""
    packed = pack(sequences).to(device)
    ids = pad_sequence([torch.from_numpy(sequence).long() for sequence in sequences], batch_first=True).to(device)
    mask = (ids != 0).long()
    rows: list[dict[str, object]] = []
    for layers in (6, 12):
        ours = new_encoder(layers).to(device)
        config = BertConfig(hidden_size=384, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=1536)
        peer = BertModel(config, add_pooling_layer=False).to(device).eval()

        def read(ours: Encoder = ours) -> Tensor:
            hidden: Tensor = ours(packed)
            return hidden

        def read_padded(peer: BertModel = peer) -> Tensor:
            hidden: Tensor = peer(input_ids=ids, attention_mask=mask).last_hidden_state
            return hidden

        for work, gradient in (("read", False), ("forward and backward", True)):
            sides = {"minilm": read, "transformers": read_padded}
            timed = {name: partial(run_once, side, device, gradient=gradient) for name, side in sides.items()}
            seconds = interleaved(timed, repetitions=ROUNDS)
            rates_of = [len(sequences) / seconds[name] for name in sides]
            rows.append(
                {
                    "work": work,
                    "model": f"L{layers}-H384",
                    "real share": real_share(list(sequences)),
                    "minilm sequences/s": rates_of[0],
                    "transformers sequences/s": rates_of[1],
                    "ratio": rates_of[0] / rates_of[1],
                }
            )
    return rows


def run_once(side: Callable[[], Tensor], device: torch.device, *, gradient: bool) -> None:
    """One pass in bf16, to its end on the device."""
    with torch.autocast(device.type, dtype=torch.bfloat16), torch.set_grad_enabled(gradient):
        hidden = side()
    if gradient:
        hidden.float().square().mean().backward()
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
