"""The command line: help is light, errors are one line with the right exit code."""

from __future__ import annotations

import errno
import sys
from importlib import import_module
from pathlib import Path

import pytest

from minilm.cli import app
from minilm.errors import (
    OUT_OF_MEMORY,
    DataError,
    Interrupted,
    MinilmError,
    SystemProblem,
    UsageError,
    is_out_of_memory,
)

SRC = Path(__file__).resolve().parents[3] / "src"
NO_MEMORY = (  # of numpy and Python, of torch on processors, on GPUs, of a library there
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
)
HEAVY = {"torch", "transformers", "pydantic", "rich", "yaml", "numpy", "pyarrow", "tokenizers"}


def exit_code(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        app.main(arguments)
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def verbs_and_commands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for verb in app.VERBS:
        module = import_module(f"minilm.cli.{verb}")
        group = getattr(module, "app", None)
        if group is not None:
            names = (command.name or command.callback.__name__ for command in group.registered_commands)
            found += [(verb, name) for name in names]
        else:
            found.append((verb,))
    return found


@pytest.mark.parametrize("command", verbs_and_commands(), ids=" ".join)
def test_every_help_has_two_examples_and_defaults(capsys, command):
    code, out, _ = exit_code(capsys, *command, "--help")
    assert code == 0
    examples = [line for line in out.partition("Examples:\n")[2].splitlines() if line.startswith("    minilm ")]
    assert len(examples) >= 2
    assert all(line.split()[1] == command[0] for line in examples)


@pytest.mark.parametrize("group", [(), ("score",), ("recipes",), ("corpus",)], ids=" ".join)
def test_lists_of_commands_are_whole(capsys, group):
    """Each command is described by the first paragraph of its help."""
    listed = " ".join(exit_code(capsys, *group, "--help")[1].partition("Commands:\n")[2].split())
    assert "..." not in listed
    for command in verbs_and_commands():
        if command[:-1] == group:
            first = exit_code(capsys, *command, "--help")[1].partition("\n\n")[2].partition("\n\n")[0]
            assert f"{command[-1]} {' '.join(first.split())}" in listed


def test_defaults_are_shown(capsys):
    _, out, _ = exit_code(capsys, "distill", "--help")
    assert "[default: auto]" in " ".join(out.split())


def test_version(capsys):
    from minilm import __version__

    assert exit_code(capsys, "--version") == (0, f"minilm {__version__}\n", "")


def test_a_misspelt_command_gets_a_suggestion(capsys):
    code, _, err = exit_code(capsys, "distil")
    assert code == 2
    assert "No such command 'distil'. Did you mean 'distill'?" in err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (MinilmError("a"), 1, "error: a\n"),
        (UsageError("bad\nflag"), 2, "error: bad flag\n"),
        (DataError("bad row"), 3, "error: bad row\n"),
        (SystemProblem("disk"), 4, "error: disk\n"),
        (Interrupted("state saved"), 130, "error: state saved\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/y"),
            4,
            "error: /x/y: the disk is full: free some space or choose another folder\n",
        ),
        (OSError("odd"), 4, "error: odd\n"),
        *((error, 4, f"error: {OUT_OF_MEMORY}\n") for error in NO_MEMORY),
    ],
)
def test_errors_become_one_line_and_an_exit_code(capsys, monkeypatch, error, code, text):
    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(app, "_exit_code_of", fail)
    assert exit_code(capsys, "doctor") == (code, "", text)


def test_other_errors_of_torch_keep_their_traceback(capsys, monkeypatch):
    def fail(arguments: list[str]) -> int:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(app, "_exit_code_of", fail)
    with pytest.raises(RuntimeError, match="shapes cannot"):
        app.main(["doctor"])


def test_the_memory_that_torch_lacks_is_recognized():
    """Really: more than the address space of a process."""
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**45)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
@pytest.mark.parametrize("command", [["distill", "tiny-embedded"], ["finetune", "rte-in-house-l6"]])
def test_training_says_which_setting_lowers_the_memory_of_a_step(capsys, monkeypatch, command, options):
    def fail(*arguments, **settings):
        raise NO_MEMORY[1]

    for name in ("distill.chain.run_distillation", "distill.dry_run.dry_run", "finetune.sweep.finetune"):
        monkeypatch.setattr(f"minilm.{name}", fail)
    monkeypatch.setattr("minilm.finetune.sweep.check_recipe", fail)
    monkeypatch.setattr("minilm.train.allocator.keep_freed_memory", lambda: True)  # it lasts as long as the process
    code, _, err = exit_code(capsys, *command, *options)
    assert code == 4
    assert err == "error: out of memory: lower train.tokens_per_batch, use fewer texts, or a machine with more memory\n"


def test_ctrl_c_is_130(capsys, monkeypatch):
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("minilm.cli.doctor.examine", stop)
    assert exit_code(capsys, "doctor")[0] == 130


def test_debug_shows_the_traceback_in_any_position(capsys):
    code, _, err = exit_code(capsys, "distill", "nothing.yaml", "--debug")
    assert code == 2
    assert "Traceback" in err
    assert err.endswith("error: 'nothing.yaml' is neither a file nor a shipped recipe;"
                        " `minilm recipes list` shows the shipped ones\n")  # fmt: skip
    assert "Traceback" not in exit_code(capsys, "distill", "nothing.yaml")[2]


def test_distill_passes_the_recipe_to_the_library(monkeypatch, capsys):
    """The verb loads the recipe, applies overrides and passes resume on; the run itself is elsewhere."""
    import types

    calls = []
    result = types.SimpleNamespace(
        folders={"a": "runs/a"}, metrics={"a.heldout_loss": 0.25, "a.agreement": 0.5}, num_parameters={"a": 1234}
    )
    module = types.ModuleType("minilm.distill.chain")

    def run_distillation(loaded, resume, make_probe):
        calls.append((loaded, resume))
        return result

    module.run_distillation = run_distillation  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "minilm.distill.chain", module)
    code, out, _ = exit_code(capsys, "distill", "tiny-embedded", "--set", "train.steps=3", "--resume", "never",
                             "--set", "train.warmup_steps=0")  # fmt: skip
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["student", "parameters", "held-out", "loss", "agreement", "folder"],
        ["a", "1,234", "0.25", "50.0%", "runs/a"],
    ]
    assert calls[0][0].recipe.train.steps == 3
    assert calls[0][1] == "never"


def test_a_bad_choice_is_a_usage_error(capsys):
    code, _, err = exit_code(capsys, "distill", "tiny-embedded", "--resume", "maybe")
    assert code == 2
    assert "maybe" in err
