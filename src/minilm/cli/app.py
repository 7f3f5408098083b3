"""The `minilm` command: dispatches to a verb, and turns errors into one line and an exit code.

In: the command line.
Out: the verb's own output; on failure one line on stderr and the exit code of the error's class.
A verb is a module of this package that has a function of the same name, or a typer `app` with several commands.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Annotated

import typer
from typer.core import TyperGroup

from minilm.cli.streams import replace_closed_streams
from minilm.errors import HINTS, OUT_OF_MEMORY, MinilmError, is_out_of_memory, one_line
from minilm.hub import downloads
from minilm.train.shared_errors import code_of_others, has_company, text_to_print

_INTERRUPTED = 130
_ANYWHERE = ("--debug", "--allow-download")
VERBS = (
    *("quickstart", "corpus", "distill", "finetune", "compare", "predict", "generate", "embed", "score"),
    *("index", "search", "mine", "quantize", "bench", "recipes", "doctor"),
)


def build_app() -> typer.Typer:
    """Collect the verbs; their modules import nothing heavy, so this is fast."""
    app = typer.Typer(
        name="minilm",
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        help=_keep_lines(inspect.cleandoc(_root.__doc__ or "")),
    )
    app.callback()(_root)
    for verb in VERBS:
        _register(app, verb, import_module(f"minilm.cli.{verb}"))
    return app


def _register(app: typer.Typer, verb: str, module: ModuleType) -> None:
    group = getattr(module, "app", None)
    if group is None:
        function = getattr(module, verb)
        text = inspect.getdoc(function) or ""
        app.command(name=verb, help=_keep_lines(text), short_help=_first_paragraph(text))(function)
        return
    group.rich_markup_mode = None
    for command in group.registered_commands:
        text = command.help or inspect.getdoc(command.callback) or ""
        command.help, command.short_help = _keep_lines(text), _first_paragraph(text)
    app.add_typer(group, name=verb)


def _first_paragraph(text: str) -> str:
    """What a list of commands says about one; without it, typer cuts the help to the width of the terminal."""
    return " ".join(text.partition("\n\n")[0].split())


def _keep_lines(text: str) -> str:
    """Keep the line breaks of paragraphs with examples (typer wraps the others)."""
    head, examples, tail = text.partition("Examples:\n")
    tail = re.sub(r"\n{2,}", "\n", tail)
    return f"{head}\b\n{examples}{tail}" if examples else text


def _show_version(value: bool) -> None:
    if value:
        from minilm import __version__

        typer.echo(f"minilm {__version__}")
        raise typer.Exit


def _root(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; allowed anywhere in the command.")
    ] = False,
    allow_download: Annotated[
        bool,
        typer.Option(
            "--allow-download",
            help="Download models that are named as on the Hugging Face hub and not in its cache; allowed anywhere.",
        ),
    ] = False,
) -> None:
    """Distill large text encoders into small, fast ones, and use them.

    Examples:
      minilm quickstart --out runs/quickstart
      minilm distill tiny-embedded --set data.inputs.0=my.txt
    """


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Exit codes: 0 success, 2 usage or configuration, 3 bad data, 4 environment, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    rest = [argument for argument in arguments if argument not in _ANYWHERE]
    with downloads(allowed="--allow-download" in arguments):
        code = run_reporting(lambda: _exit_code_of(rest), debug="--debug" in arguments)
    sys.exit(code)


def run_reporting(command: Callable[[], int], *, debug: bool = False) -> int:
    """Run a command and return its exit code; on failure print one line on stderr and return the code of the error.

    SIGTERM is treated like Ctrl-C, so that what is half written is removed.
    Of several processes of torchrun only one prints it, and those that fail because another one ended print nothing.
    """
    replace_closed_streams()
    with contextlib.suppress(ValueError):  # not the main thread: its owner handles signals
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        return command()
    except MinilmError as error:
        return _fail(error, str(error), error.exit_code, debug=debug)
    except BrokenPipeError:
        return _pipe_closed()
    except KeyboardInterrupt as error:
        return _fail(error, "interrupted", _INTERRUPTED, debug=debug)
    except OSError as error:
        return _fail(error, _explain(error), 4, debug=debug)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            return _fail(error, OUT_OF_MEMORY, 4, debug=debug)
        code = code_of_others(wait=True) if has_company() else None  # a collective whose other process is gone
        if code is None or debug:
            raise
        return code


def _exit_code_of(arguments: list[str]) -> int:
    """Run typer, which prints usage errors itself and exits through SystemExit."""
    try:
        group = typer.main.get_command(build_app())
        assert isinstance(group, TyperGroup)
        group.commands = {verb: group.commands[verb] for verb in VERBS}
        group.main(args=arguments, prog_name="minilm")
    except SystemExit as done:
        if isinstance(done.__context__, BrokenPipeError):  # a failure to typer
            return _pipe_closed()
        if done.code == _INTERRUPTED:  # typer is silent about it
            raise KeyboardInterrupt from None
        code = done.code
    except OSError as error:
        usage = getattr(error.__context__, "exit_code", None)  # of typer's error, whose message nobody reads
        if not isinstance(usage, int):
            raise
        return usage
    else:
        code = 0
    sys.stdout.flush()
    return code if isinstance(code, int) else int(code is not None)


def _fail(error: BaseException, message: str, code: int, *, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    line = one_line(message, max_chars=None)
    text: str | None = line
    if has_company():
        if isinstance(error, KeyboardInterrupt) and (others := code_of_others(wait=False)) is not None:
            return others  # torchrun stops this process because another one failed
        text = text_to_print(line, code)
    if text is not None:
        with contextlib.suppress(OSError):  # nobody reads it; the exit code remains
            sys.stderr.write(f"error: {text}\n")  # at once: other processes write to the same terminal
    return code


def _explain(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename is not None else ""
    return where + HINTS.get(error.errno or 0, str(error.strerror or error))


def _pipe_closed() -> int:
    """Exit quietly: the reader of our output has closed it (`| head`)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    main()
