"""Properties of the document order, for any corpus size, batch size, seed and step."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm.corpus.order import rank_share, step_documents
from minilm.model.token_budget import microbatches

sizes = st.integers(1, 200)
seeds = st.integers(-(2**70), 2**70)
steps = st.integers(0, 10**9)


@given(num_documents=sizes, batch_size=sizes, seed=seeds, first_epoch=st.integers(0, 1000))
def test_every_document_comes_exactly_once_per_epoch(num_documents, batch_size, seed, first_epoch):
    begin, end = first_epoch * num_documents, (first_epoch + 2) * num_documents
    first_step, last_step = begin // batch_size, -(-end // batch_size)
    seen = np.concatenate(
        [
            step_documents(num_documents=num_documents, batch_size=batch_size, seed=seed, step=step)
            for step in range(first_step, last_step)
        ]
    )[begin - first_step * batch_size :][: 2 * num_documents]
    for epoch in (seen[:num_documents], seen[num_documents:]):
        assert np.array_equal(np.sort(epoch), np.arange(num_documents))


@given(num_documents=st.integers(1, 10**6), batch_size=sizes, seed=seeds, step=steps)
@settings(max_examples=30, deadline=None)
def test_every_number_of_processes_reads_the_same_global_batch(num_documents, batch_size, seed, step):
    batch = step_documents(num_documents=num_documents, batch_size=batch_size, seed=seed, step=step)
    for world_size in (count for count in range(1, batch_size + 1) if batch_size % count == 0):
        gathered = np.empty_like(batch)
        for rank in range(world_size):
            gathered[rank::world_size] = rank_share(batch, rank=rank, world_size=world_size)
        assert np.array_equal(gathered, batch)


@given(num_documents=sizes, batch_size=sizes, seed=seeds, step=st.integers(0, 50))
@settings(max_examples=30)
def test_resuming_at_any_step_looks_it_up(num_documents, batch_size, seed, step):
    """Reading all earlier steps, in this process or another, changes nothing."""
    arguments = {"num_documents": num_documents, "batch_size": batch_size, "seed": seed}
    alone = step_documents(**arguments, step=step)
    unbroken = [step_documents(**arguments, step=each) for each in range(step + 3)]
    assert np.array_equal(alone, unbroken[step])
    assert np.array_equal(alone, step_documents(**arguments, step=step))


@given(seed=seeds, other=seeds, epoch=st.integers(0, 1000))
def test_seeds_and_epochs_give_different_orders(seed, other, epoch):
    arguments = {"num_documents": 50, "batch_size": 50}
    here = step_documents(**arguments, seed=seed, step=epoch)
    assert not np.array_equal(here, step_documents(**arguments, seed=seed, step=epoch + 1))
    if other != seed:
        assert not np.array_equal(here, step_documents(**arguments, seed=other, step=epoch))


@given(lengths=st.lists(st.integers(1, 600), max_size=300), token_budget=st.integers(1, 5000))
def test_microbatches_hold_every_document_once_within_the_budget(lengths, token_budget):
    counts = np.array(lengths, dtype=np.int32)
    groups = microbatches(counts, token_budget=token_budget)
    order = np.concatenate([np.empty(0, dtype=np.int64), *groups])
    assert np.array_equal(np.sort(order), np.arange(len(lengths)))
    assert all(counts[group].sum() <= token_budget or len(group) == 1 for group in groups)
    assert np.all(np.diff(counts[order]) >= 0)
    for group, following in itertools.pairwise(groups):  # greedy: no group could have taken more
        assert counts[group].sum() + counts[following[0]] > token_budget
