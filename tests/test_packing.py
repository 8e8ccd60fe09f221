"""Sequences are what slow versions say: the stream cut in pieces, or whole pieces put where they fit best."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_tokens import EOS, config, distinct, make_tokens

from trainer import best_fit as bins
from trainer.best_fit import pack
from trainer.loss import IGNORE
from trainer.packing import best_fit, chunks
from trainer.tokens import TokenIndex, open_tokens

LENGTHS = st.dictionaries(st.sampled_from(["books", "web", "wiki"]), st.lists(st.integers(0, 30), max_size=25),
                          min_size=1)  # fmt: skip
T = 8


def opened(folder: Path, lengths: dict[str, list[int]], packing: str, masked: bool):
    documents = distinct(lengths)
    index = TokenIndex.read(make_tokens(folder / "tokens", {"train": documents}))
    tokens, starts = open_tokens(index, "train", folder / ".cache")
    made = (
        best_fit(index, "train", T, starts, folder / ".cache")
        if packing == "best_fit"
        else chunks(index, "train", T, starts, masked)
    )
    shape = int(made.first[-1]), T
    ids, targets = np.full(shape, -7), np.full(shape, -7)
    segments = np.full(shape if masked else (0, T), -7, np.int32)
    made.fill(tokens, np.arange(shape[0]), ids, targets, segments, EOS, IGNORE)
    assert made.targets(np.arange(shape[0])) == (targets != IGNORE).sum()
    return documents, made, ids, targets, segments


@given(LENGTHS, st.booleans())
@settings(max_examples=60, deadline=None)
def test_chunks_are_the_stream_of_each_source_cut_in_pieces(lengths, masked):
    with tempfile.TemporaryDirectory() as folder:
        documents, made, ids, targets, segments = opened(Path(folder), lengths, "chunk", masked)
    rows = []
    for _, docs in sorted(documents.items()):
        stream = [token for doc in docs for token in doc]
        owner = [number for number, doc in enumerate(docs) for _ in doc]
        for start in range(0, max(0, len(stream) - 1), T):
            inputs, wanted = stream[start : min(start + T, len(stream) - 1)], stream[start + 1 : start + T + 1]
            here, then = owner[start : start + len(inputs)], owner[start + 1 : start + T + 1]
            if masked:
                wanted = [t if a == b else IGNORE for t, a, b in zip(wanted, here, then, strict=True)]
            numbers = [sorted(set(here)).index(o) for o in here]
            pad = T - len(inputs)
            rows.append((inputs + [EOS] * pad, wanted + [IGNORE] * pad, numbers + [numbers[-1] + 1] * pad))
    assert ids.tolist() == [row[0] for row in rows]
    assert targets.tolist() == [row[1] for row in rows]
    if masked:
        assert segments.tolist() == [row[2] for row in rows]
    assert made.facts()["cut"] == sum(len(doc) > T for docs in documents.values() for doc in docs)
    assert sum(made.sizes.values()) == len(rows)


@given(LENGTHS, st.booleans(), st.sampled_from([3, 1 << 20]))
@settings(max_examples=60, deadline=None)
def test_best_fit_predicts_each_token_once_from_its_own_document(lengths, masked, group):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(bins, "GROUP", group)
        documents, made, ids, targets, segments = opened(Path(folder), lengths, "best_fit", masked)
        sizes = made.sizes
    follows = {a: b for docs in documents.values() for doc in docs for a, b in pairwise(doc)}
    known = targets != IGNORE
    for token, wanted in zip(ids[known].tolist(), targets[known].tolist(), strict=True):
        assert follows[token] == wanted
    assert sorted(ids[known].tolist()) == sorted(follows)  # each token but the last of a document, once
    assert set(sizes) == {source for source, docs in documents.items() if docs}
    if masked:
        assert (np.diff(segments, axis=1) >= 0).all()
        assert (np.diff(segments, axis=1) <= 1).all()
        assert (segments[:, 0] == 0).all()
    for number, row in enumerate(ids.tolist()):
        pieces = made.pieces(number)
        assert sum(length for _, length in pieces) <= T
        assert all(length == T or length >= 2 for _, length in pieces)
        if masked:
            expected = [i for i, (_, length) in enumerate(pieces) for _ in range(length)]
            assert segments[number].tolist() == expected + [len(pieces)] * (T - len(expected))
        assert row[sum(length for _, length in pieces) :] == [EOS] * (T - sum(length for _, length in pieces))


def slow_best_fit(lengths: list[int], size: int) -> list[list[int]]:
    """Longest first, into the fullest sequence that has room."""
    bins: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        fitting = [b for b in bins if sum(b) + length <= size]
        if fitting:
            min(fitting, key=lambda b: size - sum(b)).append(length)
        else:
            bins.append([length])
    return bins


@given(st.lists(st.integers(2, 40), max_size=80), st.integers(8, 64))
@settings(max_examples=200, deadline=None)
def test_best_fit_decreasing_fills_like_the_slow_version(lengths, size):
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    pieces, ends = pack(starts, size)
    cut = [part for n in lengths for part in [*[size] * (n // size), n % size] if part > 1]
    assert sorted(pieces["length"].tolist()) == sorted(cut)
    rooms = [int(part.sum()) for part in np.split(pieces["length"], ends[:-1])] if len(ends) else []
    assert sorted(rooms) == sorted(map(sum, slow_best_fit(cut, size)))


def test_the_padding_of_real_lengths_is_near_zero(tmp_path):
    """Log-normal lengths as web pages have them: 20,000 documents leave less than a thousandth empty."""
    rng = np.random.default_rng(0)
    lengths = np.maximum(2, rng.lognormal(5.8, 1.1, 20_000)).astype(np.int64)
    pieces, ends = pack(np.concatenate([[0], np.cumsum(lengths)]), 2048)
    assert 1 - pieces["length"].sum() / (len(ends) * 2048) < 0.001


def test_the_packing_is_made_once_and_again_for_other_shards(tmp_path):
    opened(tmp_path, {"web": [5, 9, 3]}, "best_fit", False)
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / ".cache").glob("p*.bin")}
    index = TokenIndex.read(tmp_path / "tokens")
    _, starts = open_tokens(index, "train", tmp_path / ".cache")
    best_fit(index, "train", T, starts, tmp_path / ".cache")
    assert made == {path.name: path.stat().st_mtime_ns for path in (tmp_path / ".cache").glob("p*.bin")}
    other = TokenIndex.read(make_tokens(tmp_path / "other", {"train": distinct({"web": [7, 7, 7, 7]})}))
    _, starts = open_tokens(other, "train", tmp_path / ".cache")
    assert best_fit(other, "train", T, starts, tmp_path / ".cache").sizes == {"web": 4}
    assert not made.keys() & {path.name for path in (tmp_path / ".cache").glob("p*.bin")}


def test_a_configuration_of_another_packing_is_another_run():
    assert config().fingerprint("data") != config(packing="best_fit").fingerprint("data")
