"""Beam search against the original algorithm, and against transformers on an encoder-decoder of the same size.

Beam 5, sources of about 450 tokens, 48-token targets; `L6` and `L12` are MiniLM's sizes with random weights. Both
sides have the same weights, the same allocator settings and give the same targets. `short` has targets of about
13 tokens, where the early stop helps; the original has none. Memory is the peak of a separate process.

    python benchmarks/decode.py [--examples 4] [--repetitions 3]
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from ab import interleaved, save
from original_decoder import OriginalDecoder

from minilm.bench.workloads import paragraphs
from minilm.decode.beam import search
from minilm.decode.decoder import Decoder
from minilm.decode.rescore import best_hypotheses
from minilm.decode.settings import GenerationSettings
from minilm.embedded import embedded_model
from minilm.infer.engines.torch import TorchEngine
from minilm.model.config import PRESETS, EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.heads import Model, new_head
from minilm.model.precision import Precision, has_bf16
from minilm.text.tokenizer import Tokenizer
from minilm.train.allocator import keep_freed_memory

BEAMS, STEPS, SHORT = 5, 48, 12
SIZES = ("L6-H384", "L12-H384")
LONG_SEARCH = GenerationSettings(beam_size=BEAMS, max_target_tokens=STEPS, traces=True)
SHORT_SEARCH = GenerationSettings(beam_size=BEAMS, max_target_tokens=STEPS, min_tokens=SHORT)


def make_model(size: str, *, end_bias: float) -> Model:
    """Random weights; targets end early if `end_bias` is high, and only at the last step if it is low."""
    config = EncoderConfig(**{**_fields(PRESETS[size]), "hidden_dropout": 0.0})
    generator = torch.Generator().manual_seed(0)
    encoder = Encoder(config, pooler=False)
    encoder.reset(generator)
    model = Model(encoder, new_head("mlm", config, num_labels=0, generator=generator)).eval().requires_grad_(False)
    model.head.norm.weight.fill_(8.0)  # sharp enough that rounding creates no ties
    model.head.bias[tokenizer().sep_id] = end_bias
    return model


def _fields(config: EncoderConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def tokenizer() -> Tokenizer:
    """The vocabulary of BERT uncased."""
    return Tokenizer.load(embedded_model())


def make_sources(count: int) -> list[np.ndarray]:
    """Framed sources of 438 to 462 tokens of English."""
    ids = np.concatenate(tokenizer().encode(paragraphs()[:2000], special_tokens=False))
    lengths = np.random.default_rng(0).integers(436, 461, size=count)
    ends = lengths.cumsum()
    frame = (tokenizer().cls_id, tokenizer().sep_id)
    return [
        np.r_[frame[0], ids[end - n : end], frame[1]].astype(np.int64) for n, end in zip(lengths, ends, strict=True)
    ]


def original_side(
    model: Model, sources: Sequence[np.ndarray], settings: GenerationSettings
) -> Callable[[], list[object]]:
    """The original algorithm."""
    decoder = OriginalDecoder(model, tokenizer())
    return lambda: decoder.search(sources, settings)


def our_side(
    model: Model, sources: Sequence[np.ndarray], settings: GenerationSettings, precision: Precision = "fp32"
) -> Callable[[], list[object]]:
    """This package."""
    decoder: Decoder = TorchEngine(copy.deepcopy(model), precision=precision).decoder(tokenizer(), pos_shift="none")
    return lambda: search(decoder, sources, settings)


def best(traces: Sequence[object]) -> list[tuple[int, ...]]:
    """The winning tokens of each source."""
    return [best_hypotheses(trace, end_id=tokenizer().sep_id, length_penalty=0.0)[0].ids for trace in traces]


def peer_side(sources: Sequence[np.ndarray]) -> Callable[[], object]:
    """transformers: an encoder-decoder of 6 + 6 layers x 384, the same beams and steps."""
    from transformers import BartConfig, BartForConditionalGeneration

    sizes = {"d_model": 384, "encoder_layers": 6, "decoder_layers": 6, "vocab_size": 30522}
    heads = {"encoder_attention_heads": 12, "decoder_attention_heads": 12}
    config = BartConfig(**sizes, **heads, encoder_ffn_dim=1536, decoder_ffn_dim=1536, max_position_embeddings=512)
    torch.manual_seed(0)
    peer = BartForConditionalGeneration(config).eval()
    ids = torch.ones(len(sources), max(map(len, sources)), dtype=torch.long)
    for row, source in enumerate(sources):
        ids[row, : len(source)] = torch.from_numpy(source)
    options = {"num_beams": BEAMS, "max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}
    return lambda: peer.generate(ids, attention_mask=(ids != 1).long(), **options)


def peak_memory(size: str, side: str, examples: int) -> float:
    """MiB that a search adds to the peak of a separate process."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory", side, "--size", size, "--examples", str(examples)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def report_memory(size: str, side: str, examples: int) -> None:
    """Print the growth of the peak."""
    model, sources = make_model(size, end_bias=-20.0), make_sources(examples)
    run = (original_side if side == "original" else our_side)(model, sources, LONG_SEARCH)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak to the current size
    before = _peak_kib()
    run()
    print((_peak_kib() - before) / 1024)


def _peak_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def measured(size: str, examples: int, repetitions: int) -> list[dict[str, object]]:
    """Rows of one model size."""
    sources = make_sources(examples)
    rows: list[dict[str, object]] = []
    precisions = [name for name in get_args(Precision) if name == "fp32" or has_bf16()]
    for name, end_bias, settings in (("48 tokens", -20.0, LONG_SEARCH), ("short", 20.0, SHORT_SEARCH)):
        model = make_model(size, end_bias=end_bias)
        sides = {"original": original_side(model, sources, settings)}
        sides |= {precision: our_side(model, sources, settings, precision) for precision in precisions}
        expected, found = best(sides["original"]()), best(sides["fp32"]())
        seconds = interleaved(sides, repetitions=repetitions)
        for precision in precisions:
            row = {
                "model": size,
                "targets": name,
                "precision": precision,
                "original s/source": seconds["original"] / examples,
                "s/source": seconds[precision] / examples,
                "ratio": seconds["original"] / seconds[precision],
                "equal targets": sum(a == b for a, b in zip(expected, found, strict=True)) / examples,
                "mean tokens": float(np.mean([len(ids) for ids in found])),
            }
            rows.append(row)
    ours, theirs = (peak_memory(size, side, examples) for side in ("ours", "original"))
    rows.append({"model": size, "memory MiB": ours, "original MiB": theirs, "share": ours / theirs})
    return rows


def main() -> None:
    """Measure and store, or report the memory of one side."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--size", choices=SIZES)
    parser.add_argument("--memory", choices=("ours", "original"))
    args = parser.parse_args()
    if args.memory:
        report_memory(args.size, args.memory, args.examples)
        return
    keep_freed_memory()
    rows = []
    for size in [args.size] if args.size else SIZES:
        rows += measured(size, args.examples, args.repetitions)
    sources = make_sources(args.examples)
    model = make_model("L12-H384", end_bias=-20.0)
    sides = {"transformers 6+6": peer_side(sources), "L12-H384": our_side(model, sources, LONG_SEARCH)}
    seconds = interleaved(sides, repetitions=args.repetitions)
    rows.append(
        {"against": "transformers.generate, 6+6 layers", "ratio": seconds["transformers 6+6"] / seconds["L12-H384"]}
    )
    save("decode", rows)


if __name__ == "__main__":
    main()
