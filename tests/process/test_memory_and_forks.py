"""What only a process of its own shows: memory given back to the system, that of a small model, work after a fork."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from minilm.kernels.encoder import library_reason

# Freed blocks alternate with kept ones, so that the end of the heap is never free.
FREES = """
import torch
from minilm.train.allocator import give_back_freed_memory, keep_freed_memory, resident_gib

assert keep_freed_memory()
blocks = [torch.ones(size) for _ in range(32) for size in (2_000_000, 2_000)]
full = resident_gib()
del blocks[::2]
kept = resident_gib()
assert give_back_freed_memory()
print(full, kept, resident_gib())
"""
TOKENIZES = """
import os, sys
from minilm.text.tokenizer import Tokenizer
t = Tokenizer.load(sys.argv[1])
assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
t.encode(["a b c"] * 1000)
pid = os.fork()
if pid == 0:
    t.encode(["a b c"] * 1000)
    os._exit(0 if os.environ["TOKENIZERS_PARALLELISM"] == "false" else 3)
assert os.waitpid(pid, 0)[1] == 0
"""


def python(code: str, *arguments: object, by: object = sys.executable) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    env.pop("TOKENIZERS_PARALLELISM", None)
    command = [str(by), "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=300)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc is asked")
def test_freed_memory_is_kept_until_it_is_released():
    full, kept, given_back = map(float, python(FREES).stdout.split())
    assert kept == pytest.approx(full, abs=0.02)
    assert given_back < full - 0.2  # of 0.24 GiB


def test_a_child_forked_after_use_can_tokenize(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    done = python(TOKENIZES, tmp_path / "vocab.txt")
    assert (done.returncode, done.stderr) == (0, "")


ENCODES = """
import sys
import minilm
model = minilm.load(sys.argv[1], engine="native", threads=1)
assert model.encode(["one text of a few words"]).shape == (1, 384)
print(next(line for line in open("/proc/self/status") if line.startswith("VmRSS:")).split()[1])
print(*{name.partition(".")[0] for name in sys.modules})
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux says how much is resident")
@pytest.mark.skipif(bool(library_reason()), reason=library_reason() or "there are kernels")
def test_a_first_vector_needs_no_torch_and_little_memory(real_model_dir):
    """MiniLM-L6-H384 in fp32; with copies of its embeddings it would be 45 MB more."""
    resident, modules = python(ENCODES, real_model_dir).stdout.splitlines()
    assert int(resident) * 1024 <= 150e6
    assert not {"torch", "pyarrow", "transformers", "pandas"} & set(modules.split())


USES = """
import os, sys
import torch
import minilm
torch.set_num_threads(int(sys.argv[2]))
texts = ["word1 word2 word3"] * 300
def load():
    return minilm.load(sys.argv[1], engine="torch")
if sys.argv[3] != "nothing":
    model = load()
if sys.argv[3] == "used":
    model.encode(texts)
if os.fork() == 0:
    try:
        found = (load() if sys.argv[4] == "loads" else model).encode(texts)
        print(found.shape[0])
    except minilm.MinilmError as error:
        print(error)
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize("before", ["used", "loaded"])
@pytest.mark.parametrize("child", ["uses", "loads"])
def test_a_worker_that_would_wait_forever_is_rejected_at_once(tiny_task, forked, before, child):
    """Loading starts torch's threads, too, and a model loaded in the child waits for the same threads."""
    said = python(USES, tiny_task.model, 2, before, child, by=forked / "python").stdout
    assert said.startswith("the model was used before this process was forked, and torch's threads do not survive")
    assert "load the model in the child only" in said


@pytest.mark.parametrize(("threads", "before", "child"), [(1, "used", "uses"), (2, "nothing", "loads")])
def test_a_worker_without_torchs_threads_or_with_its_own_works(tiny_task, forked, threads, before, child):
    assert python(USES, tiny_task.model, threads, before, child, by=forked / "python").stdout == "300\n"
