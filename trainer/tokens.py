"""Token shards, checked once and laid flat: what the reader maps into memory.

Random reads inside Parquet would decode a row group for each sequence, so the token column of a split is decoded
once into `.cache/`: the ids of all documents, one after the other and source by source (`tokens-*.bin`), and the
first token of each document (`documents-*.bin`, int64, one more than documents). On that pass each shard's bytes,
checksum, counts and largest id are compared with the index; a finished file is the proof that they agreed, so a
resumption reads nothing again.

The cost: a second copy of the tokens on a local disk (2 or 4 bytes a token, 8 bytes a document), written at some 50
million tokens a second and core. The page cache then serves every random read that fits into memory.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainer.index_file import FORMAT, Entry, parse

_DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}
_THREADS = 8  # shards decoded at a time, at most; each takes the memory of a row group


class DataError(Exception):
    """The training data are not what is expected; the message says where, what was found and what to change."""


@dataclass(frozen=True)
class Shard:
    """A shard's entry in the index and its place among the documents and tokens of its split."""

    path: Path
    source: str
    rows: int
    tokens: int
    bytes: int
    sha256: str
    first_row: int
    first_token: int


@dataclass(frozen=True)
class TokenIndex:
    """`tokens/index.json`, checked. `digest` is 64 hex digits over its content."""

    folder: Path
    dtype: np.dtype
    vocab_size: int
    eos_id: int
    fingerprint: str  # of the tokenizer
    shards: tuple[Entry, ...]
    totals: dict[str, dict[str, int]]
    sources: dict[str, dict[str, dict[str, int]]]  # source -> split -> rows, tokens, text_bytes
    digest: str

    @classmethod
    def read(cls, folder: Path) -> TokenIndex:
        """Raises DataError when the index is missing or malformed, or made with another tokenizer than the one in
        `tokenizer/` beside it."""
        path = folder / "index.json"
        try:
            raw = json.loads(path.read_text())
        except FileNotFoundError:
            raise DataError(f"{path}: not found; the pipeline writes it before the training starts") from None
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: expected JSON, found {error}") from None
        if isinstance(raw, dict) and raw.get("format") != FORMAT:
            raise DataError(f"{path}: expected format {FORMAT!r}, found {raw.get('format')!r}")
        try:
            known = parse(raw)
        except ValueError as error:
            raise DataError(f"{path}: {error}; run the pipeline again") from None
        index = cls(
            folder=folder,
            dtype=_DTYPES[known.dtype],
            vocab_size=known.tokenizer.vocab_size,
            eos_id=known.tokenizer.eos_id,
            fingerprint=known.tokenizer.fingerprint,
            shards=known.shards,
            totals=known.model_dump(include={"totals"})["totals"],
            sources=known.model_dump(include={"sources"})["sources"],
            digest=hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest(),
        )
        index._check_tokenizer()
        return index

    def _check_tokenizer(self) -> None:
        path = self.folder.parent / "tokenizer" / "artifact.json"
        if not path.exists():  # shards that came without their tokenizer
            return
        try:
            found = str(json.loads(path.read_text())["fingerprint"])
        except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: expected JSON with a fingerprint, found {error}: run the pipeline again"
            ) from None
        if found != self.fingerprint:
            raise DataError(
                f"{self.folder / 'index.json'}: the shards were made with tokenizer {self.fingerprint[:16]}, and "
                f"{path} is {found[:16]}: run the pipeline again, or put the tokenizer of the shards there"
            )
        file = path.with_name("tokenizer.json")
        if file.exists() and (content := hashlib.sha256(file.read_bytes()).hexdigest()) != found:
            raise DataError(
                f"{file}: expected SHA-256 {found} as artifact.json says, found {content}: the file was replaced: run "
                "the pipeline again, or put the tokenizer of the shards there"
            )

    def split(self, name: str) -> list[Shard]:
        """The shards of a split in the order of the flat files: by source, then as the index lists them."""
        found: list[Shard] = []
        rows = tokens = 0
        listed = [shard for shard in self.shards if shard.split == name]
        for entry in sorted(listed, key=lambda entry: entry.source):
            sizes = entry.rows, entry.tokens, entry.bytes
            found.append(Shard(self.folder / entry.path, entry.source, *sizes, entry.sha256, rows, tokens))
            rows, tokens = rows + entry.rows, tokens + entry.tokens
        return found

    def spans(self, split: str) -> dict[str, tuple[int, int, int, int]]:
        """For each source with documents: its (first row, last row + 1, first token, last token + 1), by name."""
        found: dict[str, tuple[int, int, int, int]] = {}
        for shard in self.split(split):
            first = found.get(shard.source, (shard.first_row, 0, shard.first_token, 0))
            end = shard.first_row + shard.rows, shard.first_token + shard.tokens
            found[shard.source] = (first[0], end[0], first[2], end[1])
        return found


def open_tokens(index: TokenIndex, split: str, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """The flat arrays of a split, mapped: ids (uint16 or uint32 [tokens]) and document starts (int64 [rows + 1]).

    Made by the first process that asks, of any number; the others wait for it. Raises DataError that names the
    shard which is missing or not what the index says.
    """
    shards = index.split(split)
    tokens, rows = sum(shard.tokens for shard in shards), sum(shard.rows for shard in shards)
    ids_path, starts_path = (_flat(index, split, cache, kind) for kind in ("tokens", "documents"))
    with locked(cache):
        if not (_whole(ids_path, tokens, index.dtype) and _whole(starts_path, rows + 1, np.dtype("<i8"))):
            for stale in [*cache.glob(f"tokens-*-{split}.bin*"), *cache.glob(f"documents-*-{split}.bin*")]:
                stale.unlink()
            with written(starts_path) as file:
                document_starts(index, split, check=True).tofile(file)
            with written(ids_path) as file:
                file.truncate(tokens * index.dtype.itemsize)
                _decode(index, shards, file.fileno())
    return mapped(ids_path, index.dtype), mapped(starts_path, np.dtype("<i8"))


def document_starts(index: TokenIndex, split: str, check: bool = False) -> np.ndarray:
    """int64 [rows + 1]: the first token of each document in the flat order, and the end of the last. From the `n`
    columns alone, without reading a token. With `check`, missing shards and wrong sizes are looked for first."""
    shards = index.split(split)
    wrong = [problem for shard in shards if check and (problem := _size_problem(shard))]
    if wrong:
        more = f"; and {len(wrong) - 1} more shards" if len(wrong) > 1 else ""
        raise DataError(f"{wrong[0]}{more}: run the pipeline again, or copy the whole token folder")
    counts: list[np.ndarray] = []  # the index is believed about sizes only where a file agrees
    for shard in shards:
        column = read_column(shard, "n")
        found = column.to_numpy()
        tokens = int(found.sum(dtype=np.int64)) if not column.null_count else -1
        if len(found) != shard.rows or tokens != shard.tokens or (len(found) and found.min() < 0):
            raise DataError(
                f"{shard.path}: expected {shard.rows} documents with {shard.tokens} tokens, found {len(found)} "
                f"with {tokens}: run the pipeline again"
            )
        counts.append(found)
    starts = np.zeros(sum(map(len, counts)) + 1, np.int64)
    for shard, found in zip(shards, counts, strict=True):
        own = starts[shard.first_row + 1 : shard.first_row + shard.rows + 1]
        np.cumsum(found, out=own)
        own += shard.first_token
    return starts


def known_starts(index: TokenIndex, split: str, cache: Path) -> np.ndarray:
    """`document_starts`, mapped where a reader has left them in `cache`."""
    path = _flat(index, split, cache, "documents")
    rows = sum(shard.rows for shard in index.split(split))
    if _whole(path, rows + 1, np.dtype("<i8")):
        return mapped(path, np.dtype("<i8"))
    return document_starts(index, split)


def _flat(index: TokenIndex, split: str, cache: Path, kind: str) -> Path:
    return cache / f"{kind}-{index.digest[:16]}-{split}.bin"


def read_column(shard: Shard, name: str) -> pa.ChunkedArray:
    try:
        return pq.read_table(shard.path, columns=[name])[name]
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{shard.path}: cannot read column {name}: {' '.join(str(error).split())}") from None


def _size_problem(shard: Shard) -> str:
    try:
        size = shard.path.stat().st_size
    except OSError as error:
        return f"{shard.path}: cannot read the shard: {error.strerror}"
    return "" if size == shard.bytes else f"{shard.path}: expected {shard.bytes} bytes, found {size}"


def _decode(index: TokenIndex, shards: list[Shard], out: int) -> None:
    threads = max(1, min(_THREADS, os.cpu_count() or 1, len(shards)))
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(_decode_shard, index, shard, out) for shard in shards]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _decode_shard(index: TokenIndex, shard: Shard, out: int) -> None:
    """Write the ids of a shard at their place; raises DataError unless checksum, counts and ids agree."""
    with shard.path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != shard.sha256:
        raise DataError(f"{shard.path}: expected sha256 {shard.sha256}, found {found}: run the pipeline again")
    place = shard.first_token
    try:
        parquet = pq.ParquetFile(shard.path)
        for batch in parquet.iter_batches(columns=["input_ids", "n"], batch_size=4096, use_threads=False):
            lists, counts = batch.column("input_ids"), batch.column("n")
            if lists.type.value_type != pa.from_numpy_dtype(index.dtype) or lists.flatten().null_count:
                raise DataError(
                    f"{shard.path}: expected input_ids as lists of {index.dtype}, found {lists.type} with "
                    f"{lists.flatten().null_count} nulls: run the pipeline again"
                )
            ids = lists.flatten().to_numpy()
            if not pc.list_value_length(lists).equals(counts):
                raise DataError(
                    f"{shard.path}: expected as many ids in each document as n says: run the pipeline again"
                )
            if len(ids) and int(ids.max()) >= index.vocab_size:
                raise DataError(
                    f"{shard.path}: expected ids below {index.vocab_size}, the vocabulary in the index, found "
                    f"{int(ids.max())}: the shard was made with another tokenizer; run the pipeline again"
                )
            _write_at(out, ids, place)
            place += len(ids)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{shard.path}: cannot read the shard: {' '.join(str(error).split())}") from None


def _write_at(out: int, ids: np.ndarray, place: int) -> None:
    data, at = memoryview(np.ascontiguousarray(ids).view(np.uint8)), place * ids.itemsize  # type: ignore[arg-type]
    while data:
        done = os.pwrite(out, data, at)
        data, at = data[done:], at + done


def _whole(path: Path, count: int, dtype: np.dtype) -> bool:
    return path.exists() and path.stat().st_size == count * dtype.itemsize


def mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    """A file as a read-only array; a plain one, whose type compiled functions know at once."""
    return np.memmap(path, dtype, "r").view(np.ndarray) if path.stat().st_size else np.zeros(0, dtype)


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Hold the cache folder: one process makes a file, those that want it too wait and find it made."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "tokens.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def written(path: Path) -> Iterator[Any]:
    """A file opened for writing in bytes that appears under its name whole, or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
