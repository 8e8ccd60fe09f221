"""Token shards to fixed-length sequences, in an order that is a pure function of (seed, position).

All documents of a split, each closed by its end-of-text token, form one stream; sequence `i` is the tokens
`[i*T, i*T + T]`, so a sequence may hold several documents and every token but the first is predicted once an
epoch. The order of the sequences is a keyed permutation (a Feistel network), different in each epoch: there is
no shuffle buffer, and the state of the data is one integer, the number of sequences consumed. Which rank reads a
sequence does not enter, so any number of ranks sees the same global batches.

The cost: the token column is decoded once into a flat file that is memory-mapped (`.cache/` in the run
directory, the size of the tokens), because random reads inside Parquet would decode a row group for each
sequence. The shards' checksums are verified on that pass.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FORMAT = "tamis-tokens/1"
_DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


class DataError(Exception):
    """The token folder is not what its index says; the message says where and what was found."""


@dataclass(frozen=True)
class TokenIndex:
    """`tokens/index.json`, checked. `digest` is 64 hex digits over its content."""

    folder: Path
    dtype: np.dtype
    vocab_size: int
    eos_id: int
    shards: tuple[dict[str, Any], ...]
    totals: dict[str, dict[str, int]]
    digest: str

    @classmethod
    def read(cls, folder: Path) -> TokenIndex:
        path = folder / "index.json"
        try:
            raw = json.loads(path.read_text())
        except FileNotFoundError:
            raise DataError(f"{path}: not found; the pipeline writes it before the training starts") from None
        except ValueError as error:
            raise DataError(f"{path}: expected JSON, found {error}") from None
        try:
            if raw["format"] != FORMAT:
                raise DataError(f"{path}: expected format {FORMAT!r}, found {raw['format']!r}")
            if raw["dtype"] not in _DTYPES:
                raise DataError(f"{path}: expected dtype uint16 or uint32, found {raw['dtype']!r}")
            index = cls(
                folder=folder,
                dtype=_DTYPES[raw["dtype"]],
                vocab_size=int(raw["tokenizer"]["vocab_size"]),
                eos_id=int(raw["tokenizer"]["eos_id"]),
                shards=tuple(raw["shards"]),
                totals={name: dict(total) for name, total in raw["totals"].items()},
                digest=hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest(),
            )
            for shard in index.shards:
                inside = PurePosixPath(shard["path"])
                if inside.is_absolute() or ".." in inside.parts:
                    raise DataError(f"{path}: expected shard paths inside {folder}, found {shard['path']!r}")
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: expected the fields of {FORMAT}, missing or wrong: {error}") from None
        return index

    def split(self, name: str) -> list[dict[str, Any]]:
        return [shard for shard in self.shards if shard["split"] == name]


def _decode_shard(index: TokenIndex, shard: dict[str, Any], out: Any) -> int:
    """Append the tokens of one shard to `out`; raises DataError unless bytes, checksum and count agree."""
    path = index.folder / shard["path"]
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot read the shard: {error.strerror}") from None
    if found != shard["sha256"]:
        raise DataError(f"{path}: expected sha256 {shard['sha256']}, found {found}: run the pipeline again")
    tokens = 0
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(columns=["input_ids"], batch_size=4096):
            ids = batch.column(0).flatten().to_numpy(zero_copy_only=False)
            if len(ids) and int(ids.max()) >= index.vocab_size:
                raise DataError(f"{path}: expected ids below {index.vocab_size}, found {int(ids.max())}")
            out.write(ids.astype(index.dtype, copy=False).tobytes())
            tokens += len(ids)
    if tokens != shard["tokens"]:
        raise DataError(f"{path}: expected {shard['tokens']} tokens, found {tokens}")
    return tokens


def build_cache(index: TokenIndex, split: str, cache: Path) -> Path:
    """Flat file with the tokens of a split in index order. Complete or absent: it is renamed into place."""
    path = cache / f"tokens-{index.digest[:16]}-{split}.bin"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    for stale in cache.glob(f"tokens-*-{split}.bin*"):
        stale.unlink()
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as out:
        for shard in index.split(split):
            _decode_shard(index, shard, out)
        out.flush()
        os.fsync(out.fileno())
    partial.rename(path)
    return path


def _mix(value: np.ndarray) -> np.ndarray:
    """SplitMix64 finaliser (Steele et al. 2014) on uint64."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def permute(values: np.ndarray, size: int, key: int) -> np.ndarray:
    """A keyed permutation of range(size), applied to `values` (int64): no table, any position in O(1).

    A four-round Feistel network on the next even number of bits; values outside the range walk on until they
    fall inside (Black and Rogaway 2002). At most four rounds of walking are expected on average.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    keys = _mix(np.arange(1, 5, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key % 2**64))
    out = values.astype(np.uint64)
    todo = np.arange(len(out))
    while len(todo):
        left, right = out[todo] >> bits, out[todo] & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right + round_key) & mask)
        out[todo] = (left << bits) | right
        todo = todo[out[todo] >= np.uint64(size)]
    return out.astype(np.int64)


def order(positions: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Sequence numbers at the given positions of the endless stream over `size` sequences."""
    epochs, inside = np.divmod(np.asarray(positions, np.int64), size)
    out = np.empty(len(inside), np.int64)
    for epoch in np.unique(epochs):
        where = epochs == epoch
        out[where] = permute(inside[where], size, (seed << 32) ^ int(epoch))
    return out


class Sequences:
    """Fixed-length sequences of one split, read from the memory-mapped token file."""

    def __init__(self, index: TokenIndex, split: str, cache: Path, seq_len: int, seed: int) -> None:
        path = build_cache(index, split, cache)
        tokens = path.stat().st_size // index.dtype.itemsize
        self.size = max(0, tokens - 1) // seq_len
        self.tokens = np.memmap(path, index.dtype, "r") if tokens else np.zeros(0, index.dtype)
        self.seq_len, self.seed = seq_len, seed

    def take(self, numbers: np.ndarray) -> np.ndarray:
        """int64 [len(numbers), seq_len + 1]: inputs are all but the last token, targets all but the first."""
        starts = np.asarray(numbers, np.int64) * self.seq_len
        return np.stack([self.tokens[start : start + self.seq_len + 1] for start in starts]).astype(np.int64)

    def at(self, positions: np.ndarray) -> np.ndarray:
        """The sequences at positions of the shuffled stream."""
        return self.take(order(positions, self.size, self.seed))


def documents_of_step(
    index: TokenIndex, *, step: int, global_batch: int, seq_len: int, seed: int
) -> list[tuple[str, int, int]]:
    """Which documents optimizer step `step` (from 1) read: (doc_id, sequence number, tokens), in batch order."""
    counts, ids = [], []
    for shard in index.split("train"):
        table = pq.read_table(index.folder / shard["path"], columns=["doc_id", "n"])
        counts.append(table["n"].to_numpy().astype(np.int64))
        ids.append(table["doc_id"].combine_chunks())
    ends = np.cumsum(np.concatenate(counts))
    names = pa.chunked_array(ids)
    size = max(0, int(ends[-1]) - 1) // seq_len
    found = []
    for number in order(np.arange((step - 1) * global_batch, step * global_batch), size, seed).tolist():
        start, stop = number * seq_len, (number + 1) * seq_len + 1
        for row in range(int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, stop, "left")) + 1):
            begin = int(ends[row - 1]) if row else 0
            found.append((names[row].as_py(), number, min(stop, int(ends[row])) - max(start, begin)))
    return found
