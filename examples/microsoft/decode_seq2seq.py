"""Microsoft's command line for decoding, unchanged: from JSON lines to text lines. A thin shim over `minilm`.

In: the flags of `decode_seq2seq.py` of microsoft/unilm s2s-ft, with its defaults; checkpoints of it or of ours.
Out: for each checkpoint folder that --model_path matches, --output_file or `<folder>.<split>`, a target a line, and
with --need_score_traces the same name + `.trace.safetensors`. A run that was killed resumes where it was.

    python examples/microsoft/decode_seq2seq.py --model_type minilm --tokenizer_name vocab.txt --model_path 'out/ckpt-*'
"""

from __future__ import annotations

import argparse
import glob
import logging
import re
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from original_flags import (
    LOWERCASE,
    MODEL_TYPE,
    NO_CACHE,
    DeadFlag,
    Flag,
    lowercase,
    make_parser,
    precision_of,
    require_model_type,
)

from minilm.cli.app import run_reporting
from minilm.decode.decoder import Decoder, PosShift, use_original_eps
from minilm.decode.settings import GenerationSettings
from minilm.errors import UsageError
from minilm.infer.bulk.generate import GenerationJob, generate_file, read_sources
from minilm.infer.engines.torch import TorchEngine
from minilm.infer.generate import Generation
from minilm.model.checkpoint import read_model
from minilm.model.metadata import model_checksums
from minilm.progress import Progress
from minilm.tasks.seq2seq.rows import load_nlg_tokenizer
from minilm.text.tokenizer import Tokenizer

logger = logging.getLogger("minilm.decode_seq2seq")

PARITY = "compute as the original does: LayerNorm eps 1e-5; with --pos_shift, the source as that version frames it"
IGNORED = "the original ignored it, too"
FLAGS = (
    MODEL_TYPE,
    Flag("tokenizer_name", ..., "vocab.txt, tokenizer.json or a folder with one of them"),
    Flag("model_path", ..., "a checkpoint folder, or a pattern that matches several"),
    Flag("config_path", None, "configuration of the model where it is not in its folder"),
    Flag("input_file", None, "JSON lines with `src`, a text or a list of tokens"),
    Flag("output_file", None, "where the targets go; by default <model folder>.<split>"),
    Flag("split", "", "ending of the output's name"),
    Flag("mode", "s2s", "l2r changes nothing, both is rejected", choices=("s2s", "l2r", "both")),
    Flag("max_seq_length", 512, "positions for source and target; a source has this - 2 - max_tgt_length tokens"),
    Flag("max_tgt_length", 128, "max tokens of a target"),
    Flag("subset", 0, "only the first N sources; all where it is not positive"),
    Flag("batch_size", 4, "at least N sources of full length are decoded together; batches are formed by tokens"),
    Flag("beam_size", 1, "beams; 1 takes the most probable token each time"),
    Flag("length_penalty", 0.0, "scores are divided by ((5 + tokens) / 6) ** this where it is positive"),
    Flag("forbid_duplicate_ngrams", False, "no n-gram comes twice in a target; not for beam_size 1"),
    Flag("ngram_size", 3, "of --forbid_duplicate_ngrams"),
    Flag("forbid_ignore_word", None, "tokens whose n-grams may come again, with | between them"),
    Flag("min_len", 1, "tokens before a target may end; not for beam_size 1"),
    Flag("need_score_traces", False, "also write what the search saw, for gen_seq_from_trace.py"),
    Flag("pos_shift", False, "for models trained by position shift (mask way v0)"),
    Flag("fp16", False, "compute in bfloat16 on CPUs and GPUs that have it"),
    LOWERCASE,
    Flag("no_cuda", False, "compute on the CPU (the original ignored it)"),
    Flag("parity", "off", PARITY, choices=("off", "head", "2020-03")),
    NO_CACHE,
    DeadFlag("seed", 123, "nothing is random"),
    DeadFlag("tokenized_input", False, "a list of tokens is recognised by itself"),
    DeadFlag("s2s_special_token", False, IGNORED),
    DeadFlag("s2s_add_segment", False, IGNORED),
    DeadFlag("s2s_share_segment", False, IGNORED),
    DeadFlag("amp", False, f"{IGNORED}; --fp16 computes in bfloat16"),
)
# Flags that change how fast the targets come, and not the targets.
NOT_IDENTITY = {"batch_size", "no_cuda", *(flag.name for flag in FLAGS if isinstance(flag, DeadFlag))}


def parser() -> argparse.ArgumentParser:
    """The original's flags and defaults, and `--parity`."""
    return make_parser("decode_seq2seq.py", "Generate a target for every source.", FLAGS)


def main(arguments: Sequence[str]) -> int:
    """Do what the flags say; returns the exit code."""
    args = parser().parse_args(arguments)
    _require_sense(args)
    folders = _folders(args)
    settings = _settings(args)
    path = Path(args.tokenizer_name)
    tokenizer = load_nlg_tokenizer(path, lowercase=lowercase(args.do_lower_case, path))
    for folder in folders:
        logger.info("decoding %s", folder)
        _decode(args, folder, tokenizer, settings)
    return 0


def _require_sense(args: argparse.Namespace) -> None:
    if args.input_file is None:
        raise UsageError("--input_file is missing: name the JSON lines to decode")
    if not re.search(r"\.jsonl?(\.gz)?$", args.input_file.lower()):
        raise UsageError(f"--input_file is {args.input_file}; expected JSON lines, in a .json or .jsonl file")
    require_model_type(args.model_type)
    if args.mode == "both":
        raise UsageError("--mode both is not possible, as in the original; use s2s")
    if args.mode == "l2r":
        logger.warning("--mode l2r has no effect, as in the original: sources are read in both directions")
    if args.need_score_traces and args.beam_size <= 1:
        raise UsageError("--need_score_traces is for beam search: set --beam_size to 2 or more")
    if args.max_tgt_length >= args.max_seq_length - 2:
        raise UsageError(
            f"--max_tgt_length {args.max_tgt_length} leaves no room for a source in --max_seq_length "
            f"{args.max_seq_length}; expected at most {args.max_seq_length - 3}"
        )


def _folders(args: argparse.Namespace) -> list[Path]:
    """The checkpoint folders, by number."""
    found = sorted((_named(Path(name)) for name in glob.glob(args.model_path) if Path(name).is_dir()), key=_by_number)
    if not found:
        raise UsageError(f"--model_path {args.model_path} matches no folder; name checkpoint folders, such as ckpt-*")
    if args.output_file and len(found) > 1:
        raise UsageError(
            f"--output_file names one file for {len(found)} checkpoints; leave it out, so that each has its own"
        )
    return found


def _named(folder: Path) -> Path:
    """A folder by a path that ends in its name: outputs are called after it."""
    return folder.resolve() if folder.name in ("", "..") else folder


def _by_number(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path)) if part]


def _settings(args: argparse.Namespace) -> GenerationSettings:
    """How to generate; minimum length and bans are for beams only, as in the original."""
    if args.beam_size == 1:
        for name in ("forbid_duplicate_ngrams", "min_len", "length_penalty"):
            if getattr(args, name) != parser().get_default(name):
                logger.warning("--%s has no effect with --beam_size 1, as in the original", name)
    if args.length_penalty < 0:
        logger.warning(
            "--length_penalty %s has no effect, as in the original: it is used where positive", args.length_penalty
        )
    bans = args.forbid_duplicate_ngrams and args.beam_size > 1
    width = args.max_seq_length + args.beam_size * args.max_tgt_length
    return GenerationSettings(
        beam_size=args.beam_size,
        max_target_tokens=args.max_tgt_length,
        min_tokens=args.min_len if args.beam_size > 1 else 0,
        length_penalty=max(0.0, args.length_penalty) if args.beam_size > 1 else 0.0,
        ban_ngrams=args.ngram_size if bans else 0,
        ban_ignore=(args.forbid_ignore_word or "") if bans else "",
        batch_tokens=max(GenerationSettings.batch_tokens, args.batch_size * width),
        traces=args.need_score_traces,
    )


def _decode(args: argparse.Namespace, folder: Path, tokenizer: Tokenizer, settings: GenerationSettings) -> None:
    config = Path(args.config_path) if args.config_path else None
    decoder = _decoder(args, folder, config, tokenizer)
    if decoder.max_positions < args.max_seq_length:
        logger.warning(
            "--max_seq_length %d: %s has positions for %d tokens, which are used",
            args.max_seq_length,
            folder,
            decoder.max_positions,
        )
    room = decoder.source_room(args.max_tgt_length, max_positions=args.max_seq_length)
    output = Path(args.output_file) if args.output_file else folder.with_name(f"{folder.name}.{args.split}")
    traces = output.with_name(f"{output.name}.trace.safetensors")
    if traces.is_file() and not args.need_score_traces:
        logger.warning("%s is of an earlier run: remove it, or decode with --need_score_traces", traces)
    source = Path(args.input_file)
    job = GenerationJob(
        sources=islice(read_sources(source, ["src"]), args.subset if args.subset > 0 else None),
        output=output,
        as_lines=True,
        traces=traces if args.need_score_traces else None,
        identity={
            "model": model_checksums(folder, config=config),
            "tokenizer": tokenizer.fingerprint,
            **{name: value for name, value in vars(args).items() if name not in NOT_IDENTITY},
        },
    )
    generation = Generation(decoder, tokenizer, settings, max_source_tokens=room)
    with Progress("decode", unit="rows") as progress:
        written = generate_file(generation, job, started=lambda total, done: progress.begin(total, done).advance)
    print(f"{written} targets are in {output}")


def _decoder(args: argparse.Namespace, folder: Path, config: Path | None, tokenizer: Tokenizer) -> Decoder:
    """The model of a checkpoint, on the GPU where there is one."""
    require_model_type(args.model_type, folder, config)
    model = read_model(folder, config=config, head="mlm")
    tokenizer.require_vocab_size(model.encoder.config.vocab_size, where=str(folder))
    if args.parity != "off":
        use_original_eps(model)
    if torch.cuda.is_available() and not args.no_cuda:
        model.to("cuda")
    pos_shift: PosShift = "none"
    if args.pos_shift:
        pos_shift = "2020-03" if args.parity == "2020-03" else "head"
    return TorchEngine(model, precision=precision_of(fp16=args.fp16)).decoder(tokenizer, pos_shift=pos_shift)


if __name__ == "__main__":
    sys.exit(run_reporting(lambda: main(sys.argv[1:])))
