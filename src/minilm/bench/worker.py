"""One side of a comparison, in a separate process: loads a model, then runs workloads when asked.

In: on standard input a line of JSON per request. Out: a line of JSON per answer; whatever a library prints goes to
standard error. The process ends with its standard input.

    SIDE ({"kind": ..., "first": CALL})  -> {"memory": MB}, after the first call
    {"workloads": FILE}                  -> {}; FILE: {NAME: [CALL, ...]}
    {"run": NAME}                        -> {"seconds": [of each call], "used": seconds of processors}
    {"run": NAME, "vectors": true}       -> the same, and {"vectors": [...]}
    {"run": NAME, "most_calls": N}       -> the same of the first N calls

A call is a list of texts, or for the kind `engine` {"model": NAME, "lengths": [...]}. An answer {"failed": REASON} is
the last one; in the reason the "name" of a side, if given, stands for the path of its model.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from minilm.errors import MinilmError, one_line

Request = Mapping[str, Any]
Variant = Callable[[Any], Any]
"""Does one call; of several variants of a side the fastest one is measured."""
_MANY_TEXTS = 8  # a batch size matters for calls with more
_TRIED_TEXTS = 96  # of a call, when the fastest batch size is looked for


def main(kinds: Mapping[str, Callable[[Request], list[Variant]]] | None = None) -> None:
    """Answer requests until standard input ends; `kinds` of sides, by default those of this package."""
    kinds = KINDS if kinds is None else kinds
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    side: Side | None = None
    request: Request = {}
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if side is None:
                side = Side(kinds[request["kind"]](request))
                answer = side.start(request["first"])
            else:
                answer = side.answer(request)
        except (MinilmError, ImportError, OSError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            answer = {"failed": _reason(error, request)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if "failed" in answer:
            break
    os._exit(0)  # libraries leave threads that nobody waits for


def _reason(error: BaseException, request: Request) -> str:
    whole = one_line(error, max_chars=None)
    return one_line(whole.replace(request["model"], request["name"]) if "name" in request else whole)


class Side:
    """A loaded model and its workloads."""

    def __init__(self, variants: Sequence[Variant]) -> None:
        """Nothing is measured yet; the first variant does calls of few texts."""
        self._variants = variants
        self._workloads: dict[str, list[Any]] = {}
        self._chosen: dict[str, Variant] = {}

    def start(self, first: object) -> dict[str, object]:
        """Do the first call."""
        self._variants[0](first)
        return {"memory": _resident_mb()}

    def answer(self, request: Request) -> dict[str, object]:
        """Take the workloads, or run one of them."""
        if "workloads" in request:
            self._workloads = json.loads(Path(request["workloads"]).read_text(encoding="utf-8"))
            return {}
        name = request["run"]
        calls = self._workloads[name][: request.get("most_calls")]
        if name not in self._chosen:
            self._chosen[name] = self._fastest(calls)
        variant = self._chosen[name]
        seconds, results, used = [], [], process_time()
        for call in calls:
            started = perf_counter()
            results.append(variant(call))
            seconds.append(perf_counter() - started)
        answer: dict[str, object] = {"seconds": seconds, "used": process_time() - used}
        if request.get("vectors"):
            answer["vectors"] = [vector for result in results for vector in result.tolist()]
        return answer

    def _fastest(self, calls: Sequence[Any]) -> Variant:
        """The variant that is fastest for a workload, by one call each of some of its texts, after a first one."""
        if len(self._variants) == 1 or len(longest := max(calls, key=len)) <= _MANY_TEXTS:
            return self._variants[0]
        longest = longest[:_TRIED_TEXTS]
        times = []
        for variant in self._variants:
            variant(longest)
            started = perf_counter()
            variant(longest)
            times.append(perf_counter() - started)
        return self._variants[times.index(min(times))]


def _minilm(request: Request) -> list[Variant]:
    """`encode` of a model of ours: model, engine, precision, threads, max_tokens."""
    from dataclasses import replace

    from minilm.infer.api import load

    model = load(
        Path(request["model"]),
        engine=request["engine"],
        precision=request["precision"],
        threads=request["threads"],
    )
    model.embedding = replace(model.embedding, max_tokens=request["max_tokens"])
    return [model.encode]


def _sentence_transformers(request: Request) -> list[Variant]:
    """`encode` of sentence-transformers: model, threads, max_tokens, batch_sizes (null: its default)."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(request["threads"])
    model = SentenceTransformer(request["model"], device="cpu")
    model.max_seq_length = request["max_tokens"]

    def with_batches_of(size: int | None) -> Variant:
        options: dict[str, Any] = {} if size is None else {"batch_size": size}
        return lambda texts: model.encode(texts, show_progress_bar=False, **options)

    return [with_batches_of(size) for size in request["batch_sizes"]]


def _engine(request: Request) -> list[Variant]:
    """An engine on token ids: models (name -> folder), engine, threads."""
    import numpy as np

    from minilm.infer.engines import load_engine
    from minilm.model.packed_ids import pack_ids

    engines = {
        name: load_engine(request["engine"], Path(folder), head=None, precision="fp32", threads=request["threads"])
        for name, folder in request["models"].items()
    }

    def pooled(call: Mapping[str, Any]) -> object:
        batch = pack_ids([1 + np.arange(length, dtype=np.int32) for length in call["lengths"]])
        return engines[call["model"]].pooled(batch, ("mean",))

    return [pooled]


KINDS: Mapping[str, Callable[[Request], list[Variant]]] = {
    "minilm": _minilm,
    "sentence-transformers": _sentence_transformers,
    "engine": _engine,
}


def _resident_mb() -> float | None:
    """Memory of this process; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS")), None)


if __name__ == "__main__":
    main()
