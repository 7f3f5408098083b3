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
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from original_flags import COMMON, DeadFlag, Flag, lowercase, make_parser, precision_of, require_model_type

from minilm.cli.app import run_reporting
from minilm.decode.decoder import Decoder, PosShift, use_original_eps
from minilm.decode.settings import GenerationSettings
from minilm.errors import UsageError
from minilm.infer.bulk.generate import GenerationJob, generate_file, read_sources
from minilm.infer.engines.torch import TorchEngine
from minilm.infer.generate import Generation
from minilm.model.checkpoint import read_model
from minilm.model.metadata import model_checksums
from minilm.tasks.seq2seq.rows import load_nlg_tokenizer
from minilm.text.tokenizer import Tokenizer

logger = logging.getLogger("minilm.decode_seq2seq")

PARITY = "compute as the original does: LayerNorm eps 1e-5; with --pos_shift, the source as that version frames it"
IGNORED = "the original ignored it, too"
FLAGS = (
    *COMMON,
    Flag("tokenizer_name", ..., "vocab.txt, tokenizer.json or a folder with one of them"),
    Flag("model_path", ..., "a checkpoint folder, or a pattern that matches several"),
    Flag("config_path", str, "configuration of the model where it is not in its folder"),
    Flag("input_file", str, "JSON lines with `src`, a text or a list of tokens"),
    Flag("output_file", str, "where the targets go; by default <model folder>.<split>"),
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
    Flag("forbid_ignore_word", str, "tokens whose n-grams may come again, with | between them"),
    Flag("min_len", 1, "tokens before a target may end; not for beam_size 1"),
    Flag("need_score_traces", False, "also write what the search saw, for gen_seq_from_trace.py"),
    Flag("pos_shift", False, "for models trained by position shift (mask way v0)"),
    Flag("parity", "off", PARITY, choices=("off", "head", "2020-03")),
    DeadFlag("seed", 123, "nothing is random"),
    DeadFlag("tokenized_input", False, "a list of tokens is detected automatically"),
    DeadFlag("s2s_special_token", False, IGNORED),
    DeadFlag("s2s_add_segment", False, IGNORED),
    DeadFlag("s2s_share_segment", False, IGNORED),
    DeadFlag("amp", False, f"{IGNORED}; --fp16 computes in bfloat16"),
)
BEAMS_ONLY = ("forbid_duplicate_ngrams", "min_len", "length_penalty")
parser = partial(make_parser, "decode_seq2seq.py", "Generate a target for every source.", FLAGS)


def main(arguments: Sequence[str]) -> int:
    """Do what the flags say; returns the exit code."""
    args = parser().parse_args(arguments)
    _require_sense(args)
    folders, settings = _folders(args), _settings(args)
    path = Path(args.tokenizer_name)
    tokenizer = load_nlg_tokenizer(path, lowercase=lowercase(args.do_lower_case, path))
    for folder in folders:
        _decode(args, folder, tokenizer, settings)
    return 0


def _require_sense(args: argparse.Namespace) -> None:
    """Reject flags that contradict each other, and report those that have no effect."""
    if args.input_file is None:
        raise UsageError("--input_file is missing: name the JSON lines to decode")
    if not re.search(r"\.jsonl?(\.gz)?$", args.input_file.lower()):
        raise UsageError(f"--input_file is {args.input_file}; expected JSON lines, in a .json or .jsonl file")
    require_model_type(args.model_type)
    if args.mode == "both":
        raise UsageError("--mode both is not possible, as in the original; use s2s")
    if args.need_score_traces and args.beam_size <= 1:
        raise UsageError("--need_score_traces is for beam search: set --beam_size to 2 or more")
    if args.max_tgt_length >= args.max_seq_length - 2:
        raise UsageError(
            f"--max_tgt_length {args.max_tgt_length} leaves no room for a source in --max_seq_length "
            f"{args.max_seq_length}; expected at most {args.max_seq_length - 3}"
        )
    if args.mode == "l2r":
        logger.warning("--mode l2r has no effect, as in the original: sources are read in both directions")
    for flag in FLAGS:
        if args.beam_size == 1 and flag.name in BEAMS_ONLY and getattr(args, flag.name) != flag.default:
            logger.warning("--%s has no effect with --beam_size 1, as in the original", flag.name)
    if args.length_penalty < 0:
        logger.warning("--length_penalty %s has no effect, as in the original: it is negative", args.length_penalty)


def _folders(args: argparse.Namespace) -> list[Path]:
    """The checkpoint folders, in the order of their numbers; each by a path that ends in its name."""
    paths = [Path(name) for name in glob.glob(args.model_path) if Path(name).is_dir()]
    if not paths:
        raise UsageError(f"--model_path {args.model_path} matches no folder; name checkpoint folders, such as ckpt-*")
    if args.output_file and len(paths) > 1:
        raise UsageError(
            f"--output_file names one file for {len(paths)} checkpoints; leave it out, so that each has its own"
        )
    folders = [path if path.name.strip(".") else path.resolve() for path in paths]
    return sorted(folders, key=lambda path: ([int(number) for number in re.findall(r"\d+", path.name)], str(path)))


def _settings(args: argparse.Namespace) -> GenerationSettings:
    """How to generate; minimum length and bans are for beams only, as in the original."""
    has_beams = args.beam_size > 1
    bans = args.forbid_duplicate_ngrams and has_beams
    width = args.max_seq_length + args.beam_size * args.max_tgt_length
    return GenerationSettings(
        beam_size=args.beam_size,
        max_target_tokens=args.max_tgt_length,
        min_tokens=args.min_len if has_beams else 0,
        length_penalty=max(0.0, args.length_penalty) if has_beams else 0.0,
        ban_ngrams=args.ngram_size if bans else 0,
        ban_ignore=(args.forbid_ignore_word or "") if bans else "",
        batch_tokens=max(GenerationSettings.batch_tokens, args.batch_size * width),
        traces=args.need_score_traces,
    )


def _decode(args: argparse.Namespace, folder: Path, tokenizer: Tokenizer, settings: GenerationSettings) -> None:
    """Decode with one checkpoint."""
    logger.info("decoding %s", folder)
    config = Path(args.config_path) if args.config_path else None
    decoder = _decoder(args, folder, config, tokenizer)
    room = decoder.source_room(args.max_tgt_length, max_positions=args.max_seq_length)
    if decoder.max_positions < args.max_seq_length:
        used = f"{folder} has positions for {decoder.max_positions} tokens, which are used"
        logger.warning("--max_seq_length %d: %s", args.max_seq_length, used)
    output = Path(args.output_file) if args.output_file else folder.with_name(f"{folder.name}.{args.split}")
    traces = output.with_name(f"{output.name}.trace.safetensors")
    if traces.is_file() and not args.need_score_traces:
        logger.warning("%s is of an earlier run: remove it, or decode with --need_score_traces", traces)
    job = GenerationJob(
        sources=islice(read_sources(Path(args.input_file), ["src"]), args.subset if args.subset > 0 else None),
        output=output,
        as_lines=True,
        traces=traces if args.need_score_traces else None,
        identity={
            "model": model_checksums(folder, config=config),
            **{name: value for name, value in vars(args).items() if name in ("fp16", "parity", "pos_shift")},
        },
    )
    written = generate_file(Generation(decoder, tokenizer, settings, max_source_tokens=room), job)
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
    shift: PosShift = "2020-03" if args.parity == "2020-03" else "head"
    engine = TorchEngine(model, precision=precision_of(args.fp16))
    return engine.decoder(tokenizer, pos_shift=shift if args.pos_shift else "none")


if __name__ == "__main__":
    sys.exit(run_reporting(lambda: main(sys.argv[1:])))
