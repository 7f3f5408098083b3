"""Break the C++ of the kernels in one place after another and count what their tests catch: `make mutants` runs it too.

In: the table below, in which each text occurs once in its file. Out: `benchmarks/results/kernel_mutants.json`.

Each mutant has its own copy of the package, whose library is built again with the AVX2 (or NEON) and the scalar unit,
and whose tests are `tests/kernels`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from run import REPO, copied, say

RESULT = REPO / "benchmarks" / "results" / "kernel_mutants.json"
SECONDS = 600  # of one run of the tests; without a mutant they take a fraction
OTHERS = ("avxvnni", "avx512", "avx512_vnni", "avx512_bf16")

# What breaks: the file, what stands there, what stands there instead.
MUTANTS = {
    "the bias of an fp32 map": (
        "products.hpp",
        "Put::put(to, at + v, Vec::add(Vec::as_floats(sum), Vec::load(bias + v)));",
        "Put::put(to, at + v, Vec::as_floats(sum));",
    ),
    "the scale of another row of int8 inputs": (
        "products.hpp",
        "Vec::mul(Vec::set1(a.scale[begin + row]), Vec::load(scale))",
        "Vec::mul(Vec::set1(a.scale[begin]), Vec::load(scale))",
    ),
    "the zero of int8 inputs": (
        "products.hpp",
        "Vec::mul(Vec::set1(a.zero[begin + row]), Vec::load(column_sum))",
        "Vec::zero()",
    ),
    "the residual": (
        "products.hpp",
        "Vec::store(to + index, Vec::add(v, Vec::load(to + index)))",
        "Vec::store(to + index, v)",
    ),
    "the sums of the first piece of the inputs": (
        "products.hpp",
        "const auto run = k ? product<Dot, 2, true> : product<Dot, 2, false>;",
        "const auto run = product<Dot, 2, false>;",
    ),
    "the last of a team's columns": (
        "work.hpp",
        "static_cast<int>(n * (team->rank + 1L) / size)};",
        "static_cast<int>(n * (team->rank + 1L) / size) - (team->size > 2 && team->rank == 1)};",
    ),
    "the meeting of a team": ("work.hpp", "if (team->size == 1) return;", "if (team->size < 4) return;"),
    "the sum of a column of int8 weights": (
        "pack.hpp",
        "for (int i = 0; i < kLanes; i++) sum",
        "for (int i = 1; i < kLanes; i++) sum",
    ),
    "smoothing of int8 weights": ("pack.hpp", "if (!smoothing) return weights;", "if (in) return weights;"),
    "keys beyond the end of a sequence": (
        "attention.hpp",
        "const int here = num_keys - key;",
        "const int here = num_keys + 1 - key;",
    ),
    "scores beyond the last key": (
        "rows.hpp",
        "const F kept = Vec::select_first(e, Vec::zero(), rest);",
        "const F kept = e;",
    ),
    "the scale of attention": (
        "attention.hpp",
        "static_cast<float>(m->head_size));",
        "static_cast<float>(m->head_stride));",
    ),
    "the queries of another sequence": (
        "attention.hpp",
        "const long query_row = first_only ? sequence : start;",
        "const long query_row = first_only ? 0 : start;",
    ),
    "the epsilon of a norm": ("rows.hpp", "__builtin_sqrtf(variance + eps)", "__builtin_sqrtf(variance)"),
    "the padding of a norm": (
        "rows.hpp",
        "squares = Vec::fma(d, d, squares);\n  }\n  const float variance",
        "(void)d;\n  }\n  const float variance",
    ),
    "positions after padding": ("layers.hpp", "(m->first_position + place)", "place"),
    "tokens that pooling leaves out": ("outputs.hpp", "const int kept = length - skipped;", "const int kept = length;"),
    "no number in max pooling": ("outputs.hpp", "finite = Vec::fma(row, Vec::zero(), finite);", ""),
    "numbers that are tiny": ("pool.hpp", "before_ | 0x8040", "before_"),
    "the second thread's scratch memory": (
        "api.cpp",
        "engine.own[thread].get(), &team);\n        // Scratch",
        "engine.own[0].get(), &team);\n        // Scratch",
    ),
    "ids beyond the table": ("api.cpp", "request.ids[t] >= m.vocab", "request.ids[t] > m.vocab"),
}


def build(kernels: Path, folder: Path) -> str:
    """Put the library of a copy of the sources beside them; return the compiler's errors, "" without any."""
    options = [f"-DMINILM_HAS_{name.upper()}=OFF" for name in OTHERS]
    for command in (
        ["cmake", "-S", str(kernels / "cpp"), "-B", str(folder), *options],
        ["cmake", "--build", str(folder), "--parallel", str(os.cpu_count() or 1)],
    ):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS)
        if done.returncode:
            return done.stdout
    (folder / "libminilm_kernels.so").replace(kernels / "libminilm_kernels.so")
    return ""


def caught_by(source: Path) -> str:
    """The first test that fails with the package at `source`; "" if none does."""
    options = ["-q", "-x", "-n0", "-p", "no:cacheprovider", "-m", "not slow", "-o", f"pythonpath={source} {REPO}"]
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1", "MINILM_KERNELS": "require"}
    command = [sys.executable, "-m", "pytest", *options, "tests/kernels"]
    try:
        done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"not finished in {SECONDS} seconds"
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return lines[-1].removeprefix("FAILED ").partition(" - ")[0] if lines else "" if not done.returncode else "a crash"


def judged(name: str | None, folder: Path) -> str:
    """Which test catches a mutant; None is the code as it is."""
    source = copied(str(folder))
    kernels = source / "minilm" / "kernels"
    if name is not None:
        file, before, after = MUTANTS[name]
        path = kernels / "cpp" / file
        text = path.read_text(encoding="utf-8")
        if text.count(before) != 1:
            raise SystemExit(f"error: {file} has this {text.count(before)} times, expected once: {before}")
        path.write_text(text.replace(before, after), encoding="utf-8")
    if errors := build(kernels, folder / "build"):
        raise SystemExit(f"error: {name or 'the kernels'} cannot be built:\n{errors}")
    return caught_by(source)


def main() -> int:
    """Judge all mutants, or those that are named; return 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*MUTANTS, []], metavar="NAME", help="mutants (default: all)")
    rows = {}
    names = parser.parse_args().names
    for name in (None, *(names or MUTANTS)):
        with tempfile.TemporaryDirectory() as folder:
            found = judged(name, Path(folder))
        if name is None and found:
            raise SystemExit(f"error: the tests fail without a mutant: {found}")
        if name is not None:
            rows[name] = found
            say(f"{len(rows):3} {'caught  ' if found else 'SURVIVED'} {name}")
    if not names:
        text = json.dumps({"caught": sum(map(bool, rows.values())), "mutants": rows}, indent=1, ensure_ascii=False)
        RESULT.write_text(f"{text}\n", encoding="utf-8")
    return int(not all(rows.values()))


if __name__ == "__main__":
    raise SystemExit(main())
