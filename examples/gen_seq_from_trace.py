"""Microsoft's command line for choosing targets from score traces again, unchanged. A thin shim over `minilm`.

In: the flags of `gen_seq_from_trace.py` of microsoft/unilm s2s-ft; outputs of decode_seq2seq.py or `minilm generate`
whose traces lie beside them: `<output>.trace.safetensors` or `.trace.jsonl`, or the original's `<output>.trace.pickle`
(nothing in it is executed).
Out: beside each, `<output>.` + the settings (`lenp0.5`, `exp12.0`, `alp0.9`, `minl8`), a target a line.

    python examples/gen_seq_from_trace.py --input 'out/ckpt-*.test' --model_type minilm --tokenizer_name vocab.txt ...
"""

from __future__ import annotations

import argparse
import glob
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from original_flags import MODEL_TYPES, require_model_type

from minilm.cli.app import run_reporting
from minilm.decode.rescore import RescoreSettings, rescored
from minilm.decode.traces import TRACE_SUFFIXES, Trace, read_original_traces, read_traces
from minilm.errors import DataError, UsageError
from minilm.files.atomic import atomic_write
from minilm.tasks.seq2seq.rows import load_nlg_tokenizer
from minilm.text.detokenize import one_line, without_run_of_marks, words_of
from minilm.text.tokenizer import Tokenizer

logger = logging.getLogger("minilm.gen_seq_from_trace")

_ORIGINAL = ".trace.pickle"
_SUFFIXES = (*(f".trace{suffix}" for suffix in TRACE_SUFFIXES), _ORIGINAL)


def parser() -> argparse.ArgumentParser:
    """The original's flags and defaults, and `--parity`."""
    made = argparse.ArgumentParser(
        prog="gen_seq_from_trace.py",
        description="Choose targets from score traces by another rule, without decoding again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = made.add_argument
    add("--input", required=True, help="an output of decode_seq2seq.py with traces, or a pattern that matches several")
    add("--model_type", help=f"one of {', '.join(MODEL_TYPES)}; changes nothing: the tokenizer knows its kind")
    add(
        "--tokenizer_name", "--bert_model", required=True, help="vocab.txt, tokenizer.json or a folder with one of them"
    )
    add("--alpha", type=float, help="scores are divided by ((5 + tokens) / 6) ** alpha")
    add("--length_penalty", type=float, help="added to the score for each token; goes before --alpha")
    add("--expect", type=float, help="the length that is wanted: --length_penalty is taken off for each token away")
    add("--min_len", type=int, help="no effect but in the name of the output, as in the original")
    add("--do_lower_case", action="store_true", help="no effect: nothing is tokenized")
    add("--cache_dir", help="no effect: nothing is downloaded")
    add(
        "--parity",
        choices=("off", "swapped"),
        default="off",
        help="swapped: confuse end and padding tokens, as the original did until October 2021 with real vocabularies",
    )
    return made


def main(arguments: Sequence[str]) -> int:
    """Do what the flags say; returns the exit code."""
    args = parser().parse_args(arguments)
    if args.model_type is not None:
        require_model_type(args.model_type)
    for name in ("min_len", "do_lower_case", "cache_dir"):
        if getattr(args, name):
            logger.warning("--%s has no effect%s", name, " but in the name of the output" if name == "min_len" else "")
    if args.expect and not args.length_penalty:
        logger.warning("--expect %s has no effect without --length_penalty but in the name of the output", args.expect)
    if args.alpha and args.length_penalty:
        logger.warning("--alpha %s has no effect beside --length_penalty but in the name of the output", args.alpha)
    settings = RescoreSettings(
        alpha=args.alpha, length_penalty=args.length_penalty, expect=args.expect, swapped=args.parity == "swapped"
    )
    tokenizer = load_nlg_tokenizer(Path(args.tokenizer_name))
    found = [Path(name) for name in sorted(glob.glob(args.input)) if _trace_file(Path(name)) is not None]
    if not found:
        raise UsageError(
            f"--input {args.input} matches no output with its traces beside it: expected its name and then "
            f"{' or '.join(_SUFFIXES)}"
        )
    for path in found:
        output = path.with_name(f"{path.name}.{_ending(args)}")
        lines = [_line(trace, settings, tokenizer, path) for trace in _traces(path)]
        _require_same_run(path, len(lines))
        atomic_write(output, "".join(f"{line}\n" for line in lines))
        print(f"{len(lines)} targets are in {output}")
    return 0


def _ending(args: argparse.Namespace) -> str:
    """The settings that are not 0, as the original names them."""
    names = {"lenp": args.length_penalty, "exp": args.expect, "alp": args.alpha, "minl": args.min_len}
    return "".join(f"{name}{value}" for name, value in names.items() if value)


def _trace_file(path: Path) -> Path | None:
    candidates = (path.with_name(path.name + suffix) for suffix in _SUFFIXES)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _traces(path: Path) -> Iterable[Trace]:
    file = _trace_file(path)
    assert file is not None, "looked for before"
    return read_original_traces(file) if file.name.endswith(_ORIGINAL) else read_traces(file)


def _require_same_run(path: Path, count: int) -> None:
    """Refuse our traces of another run; of the original's output only the name is needed."""
    file = _trace_file(path)
    assert file is not None, "looked for before"
    with path.open("rb") as lines:
        size = sum(1 for _ in lines)
    if size != count and not file.name.endswith(_ORIGINAL):
        raise DataError(
            f"{file} holds {count} traces, but {path} {size} targets: they are of different runs; decode again "
            "with traces"
        )


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
