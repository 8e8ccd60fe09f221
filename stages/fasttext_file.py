"""fastText model files, read by a walk that believes nothing: sizes, indices and weights are checked on the way.

The native library trusts its input: a count that lies makes it read past a buffer, and the worker dies without a word.
Here each size is compared with the bytes that are there, each index with what it points into, and each weight with a
bound that no sum of them can overflow. A damaged or hostile file is an error that says where. The weights stay in the
file, mapped, so that all processes of a machine share them; those of a quantised file are unpacked.

Format versions 11 and 12 of facebookresearch/fastText (`src/fasttext.cc`, `dictionary.cc`, `densematrix.cc`,
`quantmatrix.cc`, `productquantizer.cc`), supervised models alone. Cost: one pass over the file, about 1 s for a GB;
then 28 bytes in memory for each word, and for a quantised file 4 * dim bytes for each of its rows.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from pipeline.stage import StageError
from stages.assets import sha256_of

MAX_MODEL_BYTES = 8 << 30  # the largest public classifiers (lid.176, GlotLID, DCLM, OpenLID) are below 3 GB
MAGIC, VERSIONS, SUPERVISED = 793712314, (11, 12), 3
_LOSSES = {1: "hs", 2: "ns", 3: "softmax", 4: "ova"}
_MAX_COUNT = 10**15  # fastText's own mark for an empty node of the label tree
MAX_WEIGHT = 1e9  # sums and products of weights below it stay far from the end of float32
_CHUNK = 1 << 24  # floats that are looked at together


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A model as the file has it. Entries of the dictionary are byte ranges of `data`; the first `words` are words,
    the others labels. `pruned`: -1, or how many buckets a pruned model keeps, `kept_buckets` -> `kept_rows`."""

    data: np.ndarray  # uint8, the mapped file
    labels: tuple[str, ...]  # with their prefix
    label_counts: np.ndarray  # int64
    loss: str  # hs, ns, softmax or ova
    words: int
    starts: np.ndarray  # int64[words + labels]
    ends: np.ndarray  # int64[words + labels]
    minn: int  # shortest character n-gram
    maxn: int  # longest; 0: none
    word_ngrams: int
    bucket: int
    pruned: int
    kept_buckets: np.ndarray  # int32[pruned]
    kept_rows: np.ndarray  # int32[pruned]
    inputs: np.ndarray  # float32[rows, dim]
    outputs: np.ndarray  # float32[labels, dim]
    quantised: bool


class _Reader:
    """Little-endian fields of a mapped file, each checked against its end."""

    def __init__(self, data: np.ndarray, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def fail(self, expected: str, found: Any) -> StageError:
        return StageError(
            f"model file {self.path}: expected a fastText classifier with {expected}, found {found} (before byte "
            f"{self.at} of {len(self.data)}); the file is damaged or of another kind: fetch it again"
        )

    def skip(self, size: int, what: str) -> np.ndarray:
        if size < 0 or size > len(self.data) - self.at:
            raise self.fail(f"{what} ({size} bytes)", f"{len(self.data) - self.at} bytes")
        self.at += size
        return self.data[self.at - size : self.at]

    def read(self, form: str, what: str) -> tuple[Any, ...]:
        return struct.unpack("<" + form, self.skip(struct.calcsize("<" + form), what).tobytes())

    def need(self, holds: bool, expected: str, found: Any) -> None:
        if not holds:
            raise self.fail(expected, found)


@njit(cache=True, nogil=True)
def _entries(data, at, number, words, starts, ends, counts):
    """Walk the dictionary: `(position after it, 0)`, or a code for what is wrong at that position."""
    for k in range(number):
        starts[k] = at
        while at < len(data) and data[at] != 0:
            at += 1
        if at + 10 > len(data):
            return at, 1
        ends[k] = at
        if at == starts[k]:
            return at, 2
        value = np.int64(0)
        for b in range(8):
            value |= np.int64(data[at + 1 + b]) << np.int64(8 * b)
        counts[k] = value
        if value < 0 or value >= 10**15:
            return at, 3
        if data[at + 9] != (k >= words):
            return at, 4
        at += 10
    return at, 0


_WRONG = ("", "whole dictionary entries", "words of one byte or more", "counts from 0 to 10^15", "words before labels")


def _floats(reader: _Reader, rows: int, columns: int, what: str) -> np.ndarray:
    """float32 of shape (rows, columns), a view of the file (its place need not be aligned)."""
    raw = reader.skip(4 * rows * columns, what)
    for start in range(0, len(raw), 4 * _CHUNK):
        part = np.frombuffer(raw[start : start + 4 * _CHUNK], "<f4")
        reader.need(bool((np.abs(part) <= MAX_WEIGHT).all()), f"finite {what} within {MAX_WEIGHT:g}", "others")
    return np.frombuffer(raw, "<f4").reshape(rows, columns)


def _quantizer(reader: _Reader, columns: int) -> tuple[int, int, np.ndarray]:
    """`(parts, size of a part, centroids)` of a product quantizer over `columns` dimensions."""
    dim, parts, size, last = reader.read("4i", "a product quantizer")
    fits = dim == columns and 0 < size <= dim and parts == -(-dim // size) and last == (dim % size or size)
    reader.need(fits, f"a quantizer of {columns} dimensions", (dim, parts, size, last))
    return parts, size, _floats(reader, 1, dim * 256, "centroids")[0]


def _matrix(reader: _Reader, quantised: bool, dim: int, what: str) -> np.ndarray:
    """float32 of shape (rows, dim): a view of the file, or for a quantised matrix its unpacked values."""
    if not quantised:
        rows, columns = reader.read("2q", what)
        reader.need(rows > 0 and columns == dim, f"{what} of n x {dim}", f"{rows} x {columns}")
        return _floats(reader, rows, columns, what)
    norms, rows, columns, size = reader.read("?2qi", what)
    reader.need(rows > 0 and columns == dim, f"{what} of n x {dim}", f"{rows} x {columns}")
    codes = reader.skip(size, f"codes of {what}")
    parts, width, centroids = _quantizer(reader, dim)
    reader.need(size == rows * parts, f"{rows * parts} codes of {what}", size)
    norm = np.ones(rows, np.float32)
    if norms:
        chosen = reader.skip(rows, f"norms of {what}")
        norm = _quantizer(reader, 1)[2][chosen]
    values = np.empty((rows, dim), np.float32)
    for part in range(parts):
        at = part * width
        wide = min(width, dim - at)
        table = centroids[at * 256 : (at + wide) * 256].reshape(256, wide)
        values[:, at : at + wide] = table[codes.reshape(rows, parts)[:, part]] * norm[:, None]
    return values


def read_model(path: Path) -> ModelFile:
    """Read a model file. Raises StageError (path, byte, what was expected and found) for one that cannot be used."""
    if not path.is_file():
        raise StageError(f"expected a fastText model file at {path}, found none")
    size = path.stat().st_size
    if size > MAX_MODEL_BYTES:
        raise StageError(f"model file {path}: expected at most {MAX_MODEL_BYTES} bytes, found {size}")
    reader = _Reader(np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8), path)
    magic, version = reader.read("2i", "the header")
    reader.need(magic == MAGIC, f"the number {MAGIC} at its start", magic)
    reader.need(version in VERSIONS, f"format version {VERSIONS}", version)
    dim, _, _, _, _, ngrams, loss, kind, bucket, minn, maxn, _, _ = reader.read("12id", "arguments")
    reader.need(kind == SUPERVISED, f"model kind {SUPERVISED} (supervised)", kind)
    reader.need(1 <= dim <= 10_000, "1 to 10,000 dimensions", dim)
    reader.need(loss in _LOSSES, f"a loss among {_LOSSES}", loss)
    chars = maxn if version == 12 else 0  # version 11 has no character n-grams, whatever it says
    reader.need(1 <= ngrams <= 100 and 0 <= chars <= 100, "n-grams of up to 100", (ngrams, minn, maxn))
    reader.need(bucket >= 0 and (bucket > 0 or (ngrams == 1 and chars == 0)), "buckets for its n-grams", bucket)
    entries, words, labels, tokens, pruned = reader.read("3i2q", "the dictionary's header")
    reader.need(min(words, labels - 1, tokens) >= 0 and entries == words + labels, "words and labels that add up",
                (entries, words, labels, tokens))  # fmt: skip
    reader.need(entries <= size // 10 and -1 <= pruned <= size // 8, "a dictionary within the file", (entries, pruned))
    starts, ends, counts = (np.zeros(entries, np.int64) for _ in range(3))
    reader.at, wrong = _entries(reader.data, reader.at, entries, words, starts, ends, counts)
    reader.need(not wrong, _WRONG[wrong], "others")
    names = [bytes(reader.data[a:b]) for a, b in zip(starts[words:], ends[words:], strict=True)]
    label_counts = counts[words:]
    reader.need(int(label_counts.sum()) < _MAX_COUNT, f"label counts below {_MAX_COUNT}", "more")
    reader.need(loss != 1 or bool((np.diff(label_counts) <= 0).all()), "labels by falling count", "another order")
    pairs = np.frombuffer(reader.skip(8 * max(pruned, 0), "pruned buckets"), "<i4")
    (quantised,) = reader.read("B", "the mark of a quantised input")
    reader.need(quantised in (0, 1) and not (pruned >= 0 and not quantised), "a whole or a quantised input", quantised)
    inputs = _matrix(reader, bool(quantised), dim, "input weights")
    rows = len(inputs)
    reader.need(rows >= words + (bucket if pruned < 0 else pruned), "a vector for each word and bucket", rows)
    kept, targets = pairs[::2].astype(np.int32), pairs[1::2].astype(np.int32)
    inside = not len(pairs) or (min(kept.min(), targets.min()) >= 0 and targets.max() < rows - words)
    reader.need(bool(inside and (not len(pairs) or kept.max() < bucket)), "buckets within the input", "others")
    (quantised_out,) = reader.read("B", "the mark of a quantised output")
    reader.need(quantised_out in (0, 1), "a whole or a quantised output", quantised_out)
    outputs = _matrix(reader, bool(quantised and quantised_out), dim, "output weights")
    reader.need(len(outputs) == labels, f"{labels} output vectors, one for each label", len(outputs))
    reader.need(reader.at == size, f"an end at byte {reader.at}", f"{size} bytes")
    try:
        decoded = tuple(name.decode() for name in names)
    except UnicodeDecodeError as error:
        raise reader.fail("labels in UTF-8", error) from None
    return ModelFile(
        reader.data, decoded, label_counts, _LOSSES[loss], words, starts, ends, minn, max(chars, 0), ngrams, bucket,
        pruned, kept, targets, inputs, outputs, bool(quantised),
    )  # fmt: skip


@functools.lru_cache(maxsize=16)
def _content(path: str, size: int, changed: int) -> str:
    return sha256_of(Path(path))


def content_hash(path: Path) -> str:
    """SHA-256 of a model file, read once for each state of the file. Raises StageError where there is none."""
    try:
        state = path.stat()
        return _content(str(path), state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise StageError(f"expected a fastText model file at {path}, found none ({error.strerror})") from error
