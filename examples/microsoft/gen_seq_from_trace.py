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
from pathlib import Path

from original_flags import Flag, make_parser, require_model_type

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
    Flag("model_type", None, "no effect: the tokenizer knows its kind"),
    Flag("do_lower_case", False, "no effect: nothing is tokenized"),
    Flag("cache_dir", None, "no effect: nothing is downloaded"),
    Flag("parity", "off", PARITY, choices=("off", "swapped")),
)


def parser() -> argparse.ArgumentParser:
    """The original's flags and defaults, and `--parity`."""
    made = make_parser("gen_seq_from_trace.py", "Choose targets from score traces by another rule.", FLAGS)
    add = made.add_argument
    add("--tokenizer_name", "--bert_model", required=True, help="vocab.txt, tokenizer.json or a folder with one")
    add("--alpha", type=float, help="scores are divided by ((5 + tokens) / 6) ** alpha")
    add("--length_penalty", type=float, help="added to the score for each token; goes before --alpha")
    add("--expect", type=float, help="the length that is wanted: --length_penalty is taken off for each token away")
    add("--min_len", type=int, help="no effect but in the name of the output, as in the original")
    return made


def main(arguments: Sequence[str]) -> int:
    """Do what the flags say; returns the exit code."""
    args = parser().parse_args(arguments)
    _report_dead_flags(args)
    settings = RescoreSettings(
        alpha=args.alpha, length_penalty=args.length_penalty, expect=args.expect, swapped=args.parity == "swapped"
    )
    tokenizer = load_nlg_tokenizer(Path(args.tokenizer_name))
    found: dict[Path, Path] = {}
    for path in map(Path, sorted(glob.glob(args.input))):
        for file in (path.with_name(path.name + end) for end in SUFFIXES):
            if path not in found and file.is_file():
                found[path] = file
    if not found:
        raise UsageError(
            f"--input {args.input} matches no output with its traces beside it: expected its name and then "
            f"{' or '.join(SUFFIXES)}"
        )
    names = {"lenp": args.length_penalty, "exp": args.expect, "alp": args.alpha, "minl": args.min_len}
    ending = "".join(f"{name}{value}" for name, value in names.items() if value)  # as the original names them
    for path, file in found.items():
        output = path.with_name(f"{path.name}.{ending}")
        lines = [_line(trace, settings, tokenizer, path) for trace in _traces(path, file)]
        atomic_write(output, "".join(f"{line}\n" for line in lines))
        print(f"{len(lines)} targets are in {output}")
    return 0


def _report_dead_flags(args: argparse.Namespace) -> None:
    if args.model_type is not None:
        require_model_type(args.model_type)
    for name in ("min_len", "do_lower_case", "cache_dir"):
        if getattr(args, name):
            logger.warning("--%s has no effect%s", name, " but in the name of the output" if name == "min_len" else "")
    if args.expect and not args.length_penalty:
        logger.warning("--expect %s has no effect without --length_penalty but in the name of the output", args.expect)
    if args.alpha and args.length_penalty:
        logger.warning("--alpha %s has no effect beside --length_penalty but in the name of the output", args.alpha)


def _traces(path: Path, file: Path) -> Iterable[Trace]:
    """The traces of an output; ours of another run are rejected, of the original's output only the name is needed."""
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


def _line(trace: Trace, settings: RescoreSettings, tokenizer: Tokenizer, path: Path) -> str:
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
