"""What validation scores: pieces of held-out documents, chosen so that two runs share as many as they can.

A document is cut into pieces of `seq_len` inputs, each scored on its own; the target of each token is the next one of
the document, so every token but the first of a document is one. What is asked of the model then depends on the
document alone, not on its neighbours in a stream, on packing, masks or ranks. A source's sample is the pieces of
smallest hash of (document id, number of the piece): where two corpora hold the same documents, their samples share
them, whatever else each of them kept. Drawn evenly over pieces, a ratio of sums over the sample estimates that of the
whole split.

The bytes of a document's text are shared out evenly over its targets. Cost: the ids of all held-out documents are read
and hashed once at the start, shard by shard, some 0.6 s for a million; the sample stays in memory, 8 bytes a token.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numba import njit

from trainer.tokens import Shard, TokenIndex, open_tokens, read_column

CHOICE = np.dtype([("key", "<u8"), ("row", "<i8"), ("piece", "<i8"), ("bytes", "<f8")])


@dataclass(frozen=True)
class Piece:
    """`ids` int64 [targets + 1]: the first is no target. `first`: its number in the document. `digest`: 16 hex digits
    over tokenizer, ids and bytes; with `doc_id` and `first` it is the same text under the same tokenizer."""

    source: str
    doc_id: str
    first: int
    ids: np.ndarray
    bytes: float
    digest: str

    @property
    def targets(self) -> int:
        return len(self.ids) - 1


def held_out(index: TokenIndex, cache: Path, count: int, seq_len: int) -> dict[str, list[Piece]]:
    """At most `count` pieces of each source of the validation split, by document id; sources without any are left out.

    Raises DataError when the shards are not what is expected.
    """
    if not count:
        return {}
    tokens, starts = open_tokens(index, "validation", cache)
    shards = index.split("validation")
    found = {}
    for source in sorted({shard.source for shard in shards}):
        chosen, names = _choose([shard for shard in shards if shard.source == source], starts, count, seq_len)
        pieces = []
        for choice, name in zip(chosen, names, strict=True):
            first = int(choice["piece"]) * seq_len
            start, end = (int(starts[choice["row"] + side]) for side in (0, 1))
            ids = tokens[start + first : min(start + first + seq_len + 1, end)].astype(np.int64)
            size = float(choice["bytes"]) * (len(ids) - 1) / (end - start - 1)
            pieces.append(Piece(source, name, first, ids, size, _digest(index.fingerprint, ids, size)))
        if pieces:
            found[source] = sorted(pieces, key=lambda piece: (piece.doc_id, piece.first))
    return found


def _choose(shards: list[Shard], starts: np.ndarray, count: int, seq_len: int) -> tuple[np.ndarray, list[str]]:
    """CHOICE [at most count], the pieces of smallest hash, and the id of the document of each."""
    best, names = np.zeros(0, CHOICE), np.zeros(0, object)
    for shard in shards:
        ids = read_column(shard, "doc_id").cast(pa.large_string()).combine_chunks()
        sizes = read_column(shard, "n_bytes").to_numpy().astype(np.float64)
        lengths = np.diff(starts[shard.first_row : shard.first_row + shard.rows + 1])
        # without bytes nothing can be said of a document
        pieces = np.where(sizes > 0, -(-(lengths - 1) // seq_len), 0).clip(0)
        row = np.repeat(np.arange(shard.rows), pieces)
        here = np.empty(len(row), CHOICE)
        here["piece"] = np.arange(len(row)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        here["key"] = _keys(np.frombuffer(ids.buffers()[1], np.int64)[ids.offset :], _data(ids), row, here["piece"])
        here["row"], here["bytes"] = row + shard.first_row, sizes[row]
        if len(here) > count:
            here = here[np.argpartition(here["key"], count)[:count]]
        best = np.concatenate([best, here])
        names = np.concatenate([names, np.array(ids.take(pa.array(here["row"] - shard.first_row)).to_pylist(), object)])
        order = np.lexsort((best["piece"], best["row"], best["key"]))[:count]
        best, names = best[order], names[order]
    return best, names.tolist()


def _data(ids: pa.LargeStringArray) -> np.ndarray:
    return np.frombuffer(ids.buffers()[2] or b"\0", np.uint8)


@njit(cache=True, nogil=True)
def _keys(offsets, data, rows, pieces):
    """uint64: FNV-1a of the document's id, mixed with the number of the piece by SplitMix64 (Steele et al. 2014)."""
    out = np.empty(len(rows), np.uint64)
    for i in range(len(rows)):
        value = np.uint64(0xCBF29CE484222325)
        for at in range(offsets[rows[i]], offsets[rows[i] + 1]):
            value = (value ^ np.uint64(data[at])) * np.uint64(0x100000001B3)
        value += np.uint64(pieces[i] + 1) * np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[i] = value ^ (value >> np.uint64(31))
    return out


def _digest(tokenizer: str, ids: np.ndarray, size: float) -> str:
    asked = tokenizer.encode() + b"\0" + np.float64(size).tobytes() + ids.astype("<i8").tobytes()
    return hashlib.blake2b(asked, digest_size=8).hexdigest()
