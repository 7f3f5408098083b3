"""One distillation step (BERT-Base -> L6-H384, R = 48) against the padded baseline, equal loss; two students in one.

The floor is the operations of the matrix products, a backward pass counted twice, at the peak of the units; `share` is
how much of that peak a step reaches. In bfloat16 only where the processor has it.

The padded baseline, as in public MiniLMv2 trainers: pad to the longest sequence, run all layers with attentions
and hidden states returned, project queries, keys and values again, one KL loop over sequences. Documents are full
docstrings truncated to 128 or 512 tokens; the batch is the middle one of a hundred by its longest document.

    python benchmarks/distill_step.py --json benchmarks/results/distill_step/MACHINE.json
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ab import interleaved, json_file, show
from texts import documents, median_batch, real_share
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig, BertModel

from minilm.bench.peaks import instruction_set, unit_peaks
from minilm.distill.relation_loss import V2_PAIRS, relation_loss
from minilm.distill.teacher import load_teacher
from minilm.distill.teacher_base import Teacher
from minilm.embedded import embedded_model
from minilm.environment import machine
from minilm.files.json import write_json
from minilm.model.checkpoint import read_model
from minilm.model.config import EncoderConfig
from minilm.model.encoder import Encoder
from minilm.model.packing import pack
from minilm.recipe import OptimizationSettings
from minilm.text.tokenizer import Tokenizer
from minilm.train.allocator import keep_freed_memory
from minilm.train.optim import make_optimizer

RELATION_HEADS = 48
SETTINGS = OptimizationSettings(learning_rate=1e-4)


class PaddedWay:
    """Teacher and student as full Hugging Face models on padded batches."""

    def __init__(self, teacher: BertModel, student: BertModel) -> None:
        self.teacher, self.student = teacher.eval(), copy.deepcopy(student).train()
        self.optimizer = make_optimizer(dict(self.student.named_parameters()), SETTINGS)

    def step(self, sequences: list[np.ndarray], bf16: bool) -> float:
        """One update; returns the loss."""
        ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.from_numpy(sequence)
            mask[row, : len(sequence)] = 1
        self.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            with torch.no_grad():
                target = self._projections(self.teacher, ids, mask)
            found = self._projections(self.student, ids, mask)
            loss = sum(self._kl(t, s, mask) for t, s in zip(target, found, strict=True))
        loss.backward()
        self.optimizer.step()
        return float(loss)

    @staticmethod
    def _projections(model: BertModel, ids: Tensor, mask: Tensor) -> list[Tensor]:
        out = model(input_ids=ids, attention_mask=mask, output_attentions=True, output_hidden_states=True)
        attention, hidden = model.encoder.layer[-1].attention.self, out.hidden_states[-2]
        return [attention.query(hidden), attention.key(hidden), attention.value(hidden)]

    @staticmethod
    def _kl(target: Tensor, found: Tensor, mask: Tensor) -> Tensor:
        def relation(rows: Tensor) -> Tensor:
            heads = rows.view(*rows.shape[:2], RELATION_HEADS, -1).transpose(1, 2)
            scores = heads @ heads.mT / heads.shape[-1] ** 0.5
            return scores + (1.0 - mask[:, None, None, :].to(scores.dtype)) * torch.finfo(scores.dtype).min

        teacher, student = relation(target).softmax(-1), relation(found).log_softmax(-1)
        losses = []
        for row, length in enumerate(mask.sum(1).tolist()):
            kl = functional.kl_div(
                student[row, :, :length, :length], teacher[row, :, :length, :length], reduction="sum"
            )
            losses.append(kl / (RELATION_HEADS * length))
        return torch.stack(losses).mean()


class Ours:
    """Packed teacher stopped at its last projections, packed students, the relation loss of the library."""

    def __init__(self, teacher: Teacher, student: Encoder, *, bf16: bool, students: int = 1) -> None:
        self.teacher, self.students = teacher, [copy.deepcopy(student).train() for _ in range(students)]
        trained = [one.relation_parameters() for one in self.students]
        named = {f"{number} {index}": p for number, part in enumerate(trained) for index, p in enumerate(part)}
        self.optimizer = make_optimizer(named, SETTINGS)
        self.bf16 = bf16

    def step(self, sequences: list[np.ndarray]) -> float:
        """One update; returns the loss of the first student."""
        packed = pack(sorted(sequences, key=len))
        self.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            known = self.teacher.relations(packed)
            losses = [
                relation_loss(
                    known, one.relations(packed), packed, pairs=V2_PAIRS, num_relation_heads=RELATION_HEADS
                ).sum()
                for one in self.students
            ]
        torch.stack(losses).sum().backward()
        self.optimizer.step()
        return float(losses[0])


def operations(teacher: EncoderConfig, student: EncoderConfig, sequences: list[np.ndarray]) -> float:
    """Those of the matrix products of a step of one student."""
    tokens, squares = sum(map(len, sequences)), sum(len(one) ** 2 for one in sequences)

    def forward(config: EncoderConfig) -> float:
        width = config.hidden_size
        layer = tokens * (8 * width**2 + 4 * width * config.intermediate_size) + squares * 4 * width
        relations = squares * 2 * width * len(V2_PAIRS)
        return (config.num_layers - 1) * layer + tokens * 6 * width**2 + relations

    return forward(teacher) + 3 * forward(student)


def main() -> None:
    """Measure both lengths in fp32 and bf16; every side runs under the same allocator settings."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    file = json_file(parser, options.json)
    threads = torch.get_num_threads()
    peaks = unit_peaks(threads)
    print("glibc keeps freed memory, for every side:", keep_freed_memory())
    torch.manual_seed(0)
    teacher = BertModel(BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), add_pooling_layer=False)
    teacher.set_attn_implementation("eager")
    size = EncoderConfig.preset("L6-H384")
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        teacher.save_pretrained(f"{folder}/teacher")
        hf_student = BertModel(
            BertConfig(
                hidden_size=384, num_hidden_layers=6, intermediate_size=size.intermediate_size,
                hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            ),
            add_pooling_layer=False,
        )  # fmt: skip
        hf_student.set_attn_implementation("eager")
        hf_student.save_pretrained(f"{folder}/student")
        student = read_model(f"{folder}/student").encoder
        tokenizer = Tokenizer.load(embedded_model())
        texts = documents()
        for longest, size in ((128, 32), (512, 24)):
            sequences = median_batch(tokenizer.encode(texts, max_length=longest), size=size)
            rows += compare(longest, sequences, teacher, hf_student, Path(folder) / "teacher", student, peaks)
    show(rows)
    facts = {"machine": machine(["torch", "numpy", "transformers"]), "threads": threads}
    write_json(file, {**facts, "instruction set": instruction_set(), "peaks": peaks, "rows": rows})


def compare(
    longest: int,
    sequences: list[np.ndarray],
    teacher: BertModel,
    hf: BertModel,
    folder: Path,
    student: Encoder,
    peaks: Mapping[str, float],
) -> list[dict[str, object]]:
    """Ratios at one length, and the difference of the first losses."""
    precisions = [name for name in ("fp32", "bf16") if name in peaks or name == "fp32"]
    sides: dict[str, Callable[[], object]] = {}
    differences = {}
    for name in precisions:
        bf16 = name == "bf16"
        frozen = load_teacher(folder, precision=torch.bfloat16 if bf16 else torch.float32)
        padded, ours = PaddedWay(teacher, hf), Ours(frozen, student, bf16=bf16)
        differences[name] = abs(padded.step(sequences, bf16) - ours.step(sequences))
        sides[f"padded {name}"] = partial(padded.step, sequences, bf16)
        sides[f"ours {name}"] = partial(ours.step, sequences)
        sides[f"two students {name}"] = partial(Ours(frozen, student, bf16=bf16, students=2).step, sequences)
    seconds = interleaved(sides, repetitions=5)
    tokens = sum(map(len, sequences))
    flops = operations(EncoderConfig.preset("BERT-Base"), student.config, sequences)
    return [
        {
            "max tokens": longest,
            "longest": max(map(len, sequences)),
            "mean tokens": tokens / len(sequences),
            "real share": real_share(sequences),
            "precision": name,
            "loss difference": differences[name],
            "tokens/s": tokens / seconds[f"ours {name}"],
            "ratio to padded fp32": seconds["padded fp32"] / seconds[f"ours {name}"],
            "ratio to padded same": seconds[f"padded {name}"] / seconds[f"ours {name}"],
            "two students to two runs": seconds[f"two students {name}"] / (2 * seconds[f"ours {name}"]),
            "GFLOP": flops / 1e9,
            "share of peak": flops / 1e9 / seconds[f"ours {name}"] / peaks[name] if name in peaks else None,
        }
        for name in precisions
    ]


if __name__ == "__main__":
    main()
