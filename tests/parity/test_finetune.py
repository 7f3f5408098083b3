"""Fine-tuning follows the padded models of transformers: losses of the heads, gradients, whole curves of steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from minilm.corpus.order import step_documents
from minilm.finetune.objective import FinetuneObjective
from minilm.finetune.sequences import Sequences, SequenceTask
from minilm.finetune.squad import SpanTask
from minilm.model.checkpoint import read_model
from minilm.model.packing import pack
from minilm.train.loop import TrainSettings, train
from minilm.train.metrics import read_metrics
from minilm.train.optim import is_decayed
from minilm.train.schedule import linear_schedule

transformers = pytest.importorskip("transformers", reason="parity needs transformers: pip install 'minilm[hf]'")

SIZES = {
    **{"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 64, "max_position_embeddings": 40, "initializer_range": 0.3},
    **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}
CLASSES = {
    "classification": transformers.BertForSequenceClassification,
    "span": transformers.BertForQuestionAnswering,
}


def sequences(number: int, *, seed: int = 0) -> Sequences:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(2, 30, number)
    ids = [draw.integers(4, 60, length).astype(np.int32) for length in lengths]
    return Sequences(token_ids=ids, segment_ids=[(np.arange(len(one)) > len(one) // 2).astype(np.int32) for one in ids])


def padded(part: Sequences, rows: list[int]) -> dict[str, torch.Tensor]:
    longest = max(len(part.token_ids[row]) for row in rows)
    names = ("input_ids", "token_type_ids", "attention_mask")
    batch = {name: torch.zeros(len(rows), longest, dtype=torch.long) for name in names}
    for place, row in enumerate(rows):
        length = len(part.token_ids[row])
        batch["input_ids"][place, :length] = torch.from_numpy(part.token_ids[row])
        batch["token_type_ids"][place, :length] = torch.from_numpy(part.segment_ids[row])
        batch["attention_mask"][place, :length] = 1
    return batch


class Labelled:
    """A task without files: random sequences and targets, with the loss of the real task."""

    dev_sets, reshuffles, num_examples = (), True, 20
    batch, parameters = SequenceTask.batch, SequenceTask.parameters
    targets_of, num_targets = SequenceTask.targets_of, SequenceTask.num_targets

    def __init__(self, head: str, *, labels: int = 3) -> None:
        from minilm.finetune.text import ClassificationTask

        self.head, self.labels = head, [str(n) for n in range(labels)] if labels > 1 else []
        self.train = sequences(20)
        draw = np.random.default_rng(1)
        if head == "span":
            lengths = [len(ids) for ids in self.train.token_ids]
            self.targets = np.stack([draw.integers(0, lengths), draw.integers(0, lengths)], axis=1)
            self.losses = SpanTask.losses.__get__(self)
        else:
            self.targets = draw.integers(0, labels, 20) if labels > 1 else draw.normal(size=20).astype(np.float32)
            self.losses = ClassificationTask.losses.__get__(self)


def peer_loss(model, task: Labelled, rows: list[int]) -> torch.Tensor:
    """Spans row by row: in a padded batch, transformers includes the padding in the softmax over positions."""
    if task.head == "span":
        losses = []
        for row in rows:
            start, end = torch.from_numpy(task.targets[[row]]).unbind(1)
            losses.append(model(**padded(task.train, [row]), start_positions=start, end_positions=end).loss)
        return torch.stack(losses).mean()
    return model(**padded(task.train, rows), labels=torch.from_numpy(task.targets[rows])).loss


@pytest.fixture(params=[("classification", 3), ("classification", 1), ("span", 2)], ids=["labels", "number", "span"])
def both(request, tmp_path: Path):
    head, labels = request.param
    torch.manual_seed(0)
    peer = CLASSES[head](transformers.BertConfig(**SIZES, num_labels=labels)).train()
    peer.save_pretrained(tmp_path / "start")
    return Labelled(head, labels=labels), peer, read_model(tmp_path / "start", head=head, num_labels=labels)


def test_loss_and_gradients_of_a_batch_agree(both):
    task, peer, model = both
    rows = [3, 7, 1, 15]
    packed = pack([task.train.token_ids[row] for row in rows], segments=[task.train.segment_ids[row] for row in rows])
    losses = task.losses(model(packed).float(), packed, torch.from_numpy(task.targets[rows]))
    expected = peer_loss(peer, task, rows)
    assert losses.mean().item() == pytest.approx(expected.item(), rel=1e-6)
    losses.mean().backward()
    expected.backward()
    word = peer.get_input_embeddings().weight.grad
    found = model.encoder.embeddings.word.weight.grad.clone()
    found[0], word[0] = 0, 0  # the padded side's [PAD]
    assert (found - word).abs().max() < 1e-5 * word.abs().max()


def test_forty_steps_of_the_whole_loop_agree(both, tmp_path):
    task, peer, model = both
    settings = TrainSettings(
        steps=40,
        learning_rate=3e-3,
        adam_eps=1e-8,
        weight_decay=0.1,
        label="test",
        warmup_steps=4,
        log_every=1,
        seed=5,
    )
    objective = FinetuneObjective(model, task, batch_size=6, tokens_per_batch=50, seed=5)
    train(objective, settings, folder=tmp_path / "run")
    found = [row["loss"] for row in read_metrics(tmp_path / "run")]
    named = dict(peer.named_parameters())
    decayed = {name: is_decayed(name.replace("LayerNorm.", "norm.")) for name in named}
    groups = [
        {"params": [p for n, p in named.items() if decayed[n] is flag], "weight_decay": 0.1 * flag}
        for flag in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, eps=1e-8)
    expected = []
    for step in range(40):
        factor = linear_schedule(step, warmup_steps=4, total_steps=40)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * factor
        optimizer.zero_grad()
        rows = step_documents(num_documents=20, batch_size=6, seed=5, step=step).tolist()
        loss = peer_loss(peer, task, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimizer.step()
        expected.append(loss.item())
    assert expected[0] - expected[-1] > 0.3  # it learns
    assert np.abs(np.array(found) - np.array(expected)).max() < 1e-4
