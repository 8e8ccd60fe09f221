"""Validation: which text is scored, its sums against slow ones, and the same file at any number of ranks."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_tokens import Documents, config, distinct, make_tokens, name_of

from trainer.held_out import held_out
from trainer.probe_stats import ratio_and_error
from trainer.tokens import TokenIndex
from trainer.validation import Validation

LENGTHS = {"books": [30, 4, 12, 9, 21], "web": [5, 8, 40, 3, 11, 16, 2, 7, 1, 0], "wiki": [13]}


def index_of(folder: Path, held: Documents, shards: int = 2) -> TokenIndex:
    return TokenIndex.read(make_tokens(folder / "tokens", {"train": held, "validation": held}, shards))


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> TokenIndex:
    return index_of(tmp_path_factory.mktemp("run"), distinct(LENGTHS))


def cache(index: TokenIndex) -> Path:
    return index.folder.parent / ".cache"


def scorer(ids: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """A made-up model: a target costs nats by itself and by the token before it."""
    return -np.where(targets >= 0, (targets % 7 + ids % 3 + 1) / 3, 0).sum(1)


def cost(ids: list[int]) -> float:
    return sum((target % 7 + before % 3 + 1) / 3 for before, target in pairwise(ids))


def slow_pieces(documents: Documents, source: str, seq_len: int) -> dict[tuple[str, int], tuple[list[int], float]]:
    """(document, first token) -> ids and bytes, 4 bytes for each token of the document."""
    found = {}
    for number, ids in enumerate(documents[source]):
        for first in range(0, len(ids) - 1, seq_len):
            piece = ids[first : first + seq_len + 1]
            size = 4 * len(ids) * (len(piece) - 1) / (len(ids) - 1)
            found[name_of(source, number), first] = piece, size
    return found


@pytest.mark.parametrize("seq_len", [1, 4, 8, 100])
def test_without_a_limit_all_text_is_in_pieces(index, seq_len):
    documents = distinct(LENGTHS)
    found = held_out(index, cache(index), 1000, seq_len)
    assert list(found) == ["books", "web", "wiki"]
    for source, pieces in found.items():
        expected = slow_pieces(documents, source, seq_len)
        assert [(piece.doc_id, piece.first) for piece in pieces] == sorted(expected)
        for piece in pieces:
            ids, size = expected[piece.doc_id, piece.first]
            assert piece.ids.tolist() == ids
            assert piece.bytes == pytest.approx(size)
        whole = sum(4 * len(ids) for ids in documents[source] if len(ids) > 1)
        assert sum(piece.bytes for piece in pieces) == pytest.approx(whole)
        assert len({piece.digest for piece in pieces}) == len(pieces)


def test_the_sample_is_nested_and_depends_on_the_documents_alone(index, tmp_path):
    names = {n: {(p.doc_id, p.first) for p in held_out(index, cache(index), n, 4)["web"]} for n in (1, 5, 12)}
    assert [len(found) for found in names.values()] == [1, 5, 12]
    assert names[1] < names[5] < names[12]
    for shards in (1, 5):
        other = index_of(tmp_path / str(shards), distinct(LENGTHS), shards)
        assert {(p.doc_id, p.first) for p in held_out(other, cache(other), 5, 4)["web"]} == names[5]
    assert held_out(index, cache(index), 0, 4) == {}


def test_corpora_that_share_documents_share_sequences(tmp_path):
    """One of them keeps 70 of 100 documents: its sample of 60 is that of the whole where the document is in both."""
    rng = np.random.default_rng(0)
    documents = {"web": [[*rng.integers(1, 999, 30).tolist(), 0] for _ in range(100)]}
    fewer = {"web": [ids if number % 10 < 7 else [] for number, ids in enumerate(documents["web"])]}
    one, two = index_of(tmp_path / "one", documents), index_of(tmp_path / "two", fewer)
    samples = [
        {(p.doc_id, p.first, p.digest) for p in held_out(made, cache(made), 60, 16)["web"]} for made in (one, two)
    ]
    kept = {name_of("web", number) for number in range(100) if number % 10 < 7}
    shared = samples[0] & samples[1]
    assert shared == {key for key in samples[0] if key[0] in kept}
    assert 30 < len(shared) < 55


def test_a_digest_is_of_text_and_tokenizer(tmp_path):
    held = distinct({"web": [9, 9]})
    one = index_of(tmp_path / "one", held)
    changed = {"web": [held["web"][0], [*held["web"][1][:4], 77, *held["web"][1][5:]]]}
    two = index_of(tmp_path / "two", changed)
    digests = [[piece.digest for piece in held_out(made, cache(made), 9, 4)["web"]] for made in (one, two)]
    same = [a == b for a, b in zip(*digests, strict=True)]
    assert same.count(False) == 2, "the changed token ends one piece and begins the next"
    path = one.folder / "index.json"
    path.write_text(path.read_text().replace("f" * 64, "e" * 64))
    other = TokenIndex.read(one.folder)
    assert not {piece.digest for piece in held_out(other, cache(other), 9, 4)["web"]} & set(digests[0])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.sampled_from([8, 16]), st.integers(1, 4), st.sampled_from([8, 64]))
def test_numbers_equal_the_slow_ones(index, limit, seq_len, ranks, batch_tokens):
    made = [Validation(index, cache(index), config(val_limit=limit, seq_len=seq_len), rank, ranks, batch_tokens)
            for rank in range(ranks)]  # fmt: skip
    parts: list[np.ndarray] = []
    for one in made:
        one.evaluate(scorer, lambda values: parts.append(values) or values - 1)
    row = made[0].evaluate(scorer, lambda _: sum(parts))
    bits, sizes = [], []
    for source, pieces in held_out(index, cache(index), limit, seq_len).items():
        by_document: dict[str, list[float]] = {}
        for piece in pieces:
            total = by_document.setdefault(piece.doc_id, [0.0, 0.0, 0.0])
            for at, value in enumerate((cost(piece.ids.tolist()), piece.targets, piece.bytes)):
                total[at] += value
        nats, targets, size = np.array(list(by_document.values())).T
        found = row["validation"][source]
        assert (found["n"], found["documents"]) == (len(pieces), len(by_document))
        assert (found["loss"], found["loss_stderr"]) == pytest.approx(ratio_and_error(nats, targets))
        expected = ratio_and_error(nats / math.log(2), size)
        assert (found["bits_per_byte"], found["bits_per_byte_stderr"]) == pytest.approx(expected)
        bits.append(found["bits_per_byte"])
        sizes.append(index.sources[source]["validation"]["text_bytes"])
    assert row["val_bits_per_byte"] == pytest.approx(np.average(bits, weights=sizes))


def test_one_rank_and_several_write_the_same_file(index, tmp_path):
    def written(ranks: int) -> bytes:
        made = [Validation(index, cache(index), config(val_limit=9), rank, ranks, 16) for rank in range(ranks)]
        parts: list[np.ndarray] = []
        for one in made:
            one.evaluate(scorer, lambda values: parts.append(values) or values - 1)
        made[0].evaluate(scorer, lambda _: sum(parts))
        made[0].save_items(tmp_path / str(ranks), 7)
        (path,) = (tmp_path / str(ranks) / "validation-items").iterdir()
        assert path.name == "step-7.parquet"
        return path.read_bytes()

    assert written(1) == written(2) == written(3)
    table = pq.read_table(tmp_path / "1" / "validation-items" / "step-7.parquet")
    assert table.column_names == ["source", "doc_id", "first", "digest", "nll", "targets", "bytes"]
    assert table.schema.metadata[b"tokenizer"] == b"f" * 64
    pieces = [piece for found in held_out(index, cache(index), 9, 8).values() for piece in found]
    assert table["nll"].to_pylist() == pytest.approx([cost(piece.ids.tolist()) for piece in pieces])
    assert table["targets"].to_pylist() == [piece.targets for piece in pieces]


def test_nothing_to_validate_leaves_nothing(index, tmp_path):
    made = Validation(index, cache(index), config(val_limit=0), 0, 1)
    assert made.evaluate(scorer, lambda values: values) == {}
    made.save_items(tmp_path, 1)
    assert not list(tmp_path.iterdir())
