"""The trainer's data: the order, the sequences and the errors are what slow versions say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_training import ROOT, make_run

from trainer.data import DataError, Sequences, TokenIndex, documents_of_step, order, permute

SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("prepared") / "run")


@given(st.integers(1, 3000), st.integers(0, 2**40))
def test_permutation_is_a_bijection(size, key):
    assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


def test_order_differs_between_epochs_and_seeds():
    first, second = order(np.arange(100), 100, 1), order(np.arange(100, 200), 100, 1)
    assert sorted(first) == sorted(second) == list(range(100))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, order(np.arange(100), 100, 2))
    assert order(np.array([7, 103]), 100, 1).tolist() == [first[7], second[3]]


def test_sequences_are_the_stream_cut_in_pieces(prepared, tmp_path):
    index = TokenIndex.read(prepared / "tokens")
    data = Sequences(index, "train", tmp_path, 32, seed=3)
    shards = [pq.read_table(prepared / "tokens" / shard["path"]) for shard in index.split("train")]
    stream = [token for table in shards for row in table["input_ids"].to_pylist() for token in row]
    assert data.size == (len(stream) - 1) // 32
    assert data.take(np.arange(data.size))[:, :-1].ravel().tolist() == stream[: data.size * 32]
    assert data.take(np.array([5])).tolist() == [stream[160:193]]


def test_global_batch_does_not_depend_on_ranks(prepared, tmp_path):
    """The rows that 1, 2 and 4 ranks read for a step are the same rows."""
    data = Sequences(TokenIndex.read(prepared / "tokens"), "train", tmp_path, 32, seed=0)
    whole = data.at(np.arange(16, 24))
    for ranks, rows in ((2, 2), (4, 1), (4, 2)):
        parts = [data.at(np.arange(start + rank * rows, start + (rank + 1) * rows))
                 for start in range(16, 24, rows * ranks) for rank in range(ranks)]  # fmt: skip
        assert np.array_equal(np.concatenate(parts), whole)


def test_documents_of_a_step_hold_its_tokens(prepared, tmp_path):
    index = TokenIndex.read(prepared / "tokens")
    found = documents_of_step(index, step=3, global_batch=8, seq_len=32, seed=0)
    assert sum(count for _, _, count in found) == 8 * 33
    tables = [pq.read_table(prepared / "tokens" / shard["path"]) for shard in index.split("train")]
    texts = {i: set(ids) for t in tables for i, ids in zip(t["doc_id"].to_pylist(), t["input_ids"].to_pylist(),
                                                            strict=True)}  # fmt: skip
    data = Sequences(index, "train", tmp_path, 32, seed=0)
    for row, number in zip(data.at(np.arange(16, 24)), order(np.arange(16, 24), data.size, 0), strict=True):
        allowed = set().union(*(texts[doc] for doc, sequence, _ in found if sequence == number))
        assert set(row.tolist()) <= allowed


def test_a_changed_shard_is_refused(tmp_path):
    run = make_run(tmp_path / "run")
    shard = run / "tokens" / "train-1.parquet"
    shard.write_bytes(shard.read_bytes()[:-9] + b"123456789")
    with pytest.raises(DataError, match=r"train-1\.parquet: expected sha256"):
        Sequences(TokenIndex.read(run / "tokens"), "train", run / ".cache", 32, 0)
    assert not list((run / ".cache").glob("*.bin"))


def test_index_errors_name_the_file(tmp_path):
    with pytest.raises(DataError, match=r"index\.json: not found"):
        TokenIndex.read(tmp_path)
    (tmp_path / "index.json").write_text('{"format": "other"}')
    with pytest.raises(DataError, match=r"expected format 'tamis-tokens/1', found 'other'"):
        TokenIndex.read(tmp_path)
