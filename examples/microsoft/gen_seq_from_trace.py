"""Microsoft's command line for choosing targets from score traces again, unchanged. A thin shim over `minilm`.

In: the flags of `gen_seq_from_trace.py` of microsoft/unilm s2s-ft; outputs of decode_seq2seq.py or `minilm generate`
whose traces are beside them: `<output>.trace.safetensors` or `.trace.jsonl`, or the original's `<output>.trace.pickle`
(nothing in it is executed).
Out: beside each, `<output>.` + the settings (`lenp0.5`, `exp12.0`, `alp0.9`, `minl8`), a target a line.

    python examples/microsoft/gen_seq_from_trace.py --input 'out/ckpt-*.test' --tokenizer_name vocab.txt --alpha 0.9
"""

from __future__ import annotations

import argparse
import glob
import logging
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from original_flags import DeadFlag, Flag, make_parser, require_model_type

from minilm.cli.app import run_reporting
from minilm.decode.rescore import RescoreSettings, rescored
from minilm.decode.traces import TRACE_SUFFIXES, Trace, read_original_traces, read_traces
from minilm.errors import DataError, UsageError
from minilm.files.atomic import atomic_write
from minilm.tasks.seq2seq.rows import load_nlg_tokenizer
from minilm.text.detokenize import one_line, without_run_of_marks, words_of
from minilm.text.tokenizer import Tokenizer

logger = logging.getLogger("minilm.gen_seq_from_trace")

ORIGINAL = ".trace.pickle"
SUFFIXES = (*(f".trace{suffix}" for suffix in TRACE_SUFFIXES), ORIGINAL)
PARITY = "swapped: confuse end and padding tokens, as the original did until October 2021 with real vocabularies"
FLAGS = (
    Flag("input", ..., "an output of decode_seq2seq.py with traces, or a pattern that matches several"),
    Flag("model_type", str, "no effect: the tokenizer knows its kind"),
    Flag("tokenizer_name", ..., "vocab.txt, tokenizer.json or a folder with one", alias="bert_model"),
    Flag("alpha", float, "scores are divided by ((5 + tokens) / 6) ** alpha"),
    Flag("length_penalty", float, "added to the score for each token; overrides --alpha"),
    Flag("expect", float, "the expected length: --length_penalty is subtracted for each token away from it"),
    Flag("min_len", int, "no effect but in the name of the output, as in the original"),
    Flag("parity", "off", PARITY, choices=("off", "swapped")),
    DeadFlag("do_lower_case", False, "nothing is tokenized"),
    DeadFlag("cache_dir", "", "nothing is downloaded"),
)
parser = partial(make_parser, "gen_seq_from_trace.py", "Choose targets from score traces by another rule.", FLAGS)


def main(arguments: Sequence[str]) -> int:
    """Do what the flags say; returns the exit code."""
    args = parser().parse_args(arguments)
    if args.model_type is not None:
        require_model_type(args.model_type)
    settings = _settings(args)
    tokenizer = load_nlg_tokenizer(Path(args.tokenizer_name))
    outputs = sorted(glob.glob(args.input))
    found = {name: [file for end in SUFFIXES if (file := Path(name + end)).is_file()] for name in outputs}
    if not any(found.values()):
        raise UsageError(
            f"--input {args.input} matches no output with its traces beside it: expected its name and then "
            f"{' or '.join(SUFFIXES)}"
        )
    names = {"lenp": args.length_penalty, "exp": args.expect, "alp": args.alpha, "minl": args.min_len}
    ending = "".join(f"{name}{value}" for name, value in names.items() if value)  # as the original names them
    for name, files in found.items():
        if files:
            lines = [_line(trace, settings, tokenizer, name) for trace in _traces(Path(name), files[0])]
            atomic_write(Path(f"{name}.{ending}"), "".join(f"{line}\n" for line in lines))
            print(f"{len(lines)} targets are in {name}.{ending}")
    return 0


def _settings(args: argparse.Namespace) -> RescoreSettings:
    """The rule; reports what only changes the name of the output."""
    if args.min_len:
        logger.warning("--min_len has no effect but in the name of the output")
    if args.expect and not args.length_penalty:
        logger.warning("--expect %s has no effect without --length_penalty but in the name of the output", args.expect)
    if args.alpha and args.length_penalty:
        logger.warning("--alpha %s has no effect beside --length_penalty but in the name of the output", args.alpha)
    return RescoreSettings(
        alpha=args.alpha, length_penalty=args.length_penalty, expect=args.expect, swapped=args.parity == "swapped"
    )


def _traces(path: Path, file: Path) -> Iterable[Trace]:
    """The traces of an output; ours of another run are rejected, the original's need no output but its name."""
    if file.name.endswith(ORIGINAL):
        return read_original_traces(file)
    traces = read_traces(file)
    with path.open("rb") as lines:
        size = sum(1 for _ in lines)
    if size != len(traces):
        raise DataError(
            f"{file} holds {len(traces)} traces, but {path} {size} targets: they are of different runs; decode again "
            "with traces"
        )
    return traces


def _line(trace: Trace, settings: RescoreSettings, tokenizer: Tokenizer, path: str) -> str:
    """The target that the rule chooses from a trace."""
    highest = max(max(frame) for frame in trace.ids)
    if highest >= tokenizer.vocab_size:
        raise DataError(
            f"{path}: its trace holds token id {highest}, but the tokenizer has {tokenizer.vocab_size} tokens: they do "
            "not belong together; use the tokenizer it was decoded with"
        )
    ids = rescored(trace, settings, end_id=tokenizer.sep_id, pad_id=tokenizer.pad_id)
    return one_line(without_run_of_marks(words_of(ids, tokenizer)))


if __name__ == "__main__":
    sys.exit(run_reporting(lambda: main(sys.argv[1:])))
