"""Documents to sequences of a fixed length T: two ways, and what each sequence holds.

`chunk`: the documents of a source, each closed by its end-of-text token, form one stream that is cut every T
tokens. Nothing is padded but the last sequence of a source. Every token but the first of a source is predicted once
an epoch; with document masks the first token of a document is no target, since nothing before it may be seen.

`best_fit`: a document longer than T is cut into pieces of T, and the pieces are put whole into sequences by best-fit
decreasing (Ding et al. 2024, "Fewer Truncations Improve Language Modeling"), so that nothing else is cut. The target
of each token is the next one of its own document, also where a cut lies between: every token but the first of each
document is predicted once an epoch. What no piece fits is padding. A last piece of one token predicts nothing and is
left out.

Cost: `chunk` stores nothing; `best_fit` 16 bytes on disk for each piece, packed once for each index and T.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit

from trainer import best_fit as bins
from trainer.config import TrainConfig
from trainer.tokens import TokenIndex, locked, mapped, written

_KINDS = (bins.PIECE, np.dtype("<i8"), np.dtype("<i8"))  # of the files that `packing_files` names


@dataclass(frozen=True)
class Chunks:
    """Sequences of the stream of each source. Sequence numbers run through the sources."""

    names: tuple[str, ...]  # of the sources
    seq_len: int
    first: np.ndarray  # int64 [sources + 1], first sequence of each source
    begin: np.ndarray  # int64 [sources], first token of each source
    end: np.ndarray  # int64 [sources], its last token + 1
    starts: np.ndarray  # int64 [documents + 1], first token of each document
    masked: bool  # the first token of a document is no target

    @property
    def sizes(self) -> dict[str, int]:
        """Sequences of each source."""
        return dict(zip(self.names, np.diff(self.first).tolist(), strict=True))

    def facts(self) -> dict[str, float]:
        """`sequences`; `padding`, the share of their slots without an input; `cut`, documents longer than T."""
        inputs = int(np.maximum(0, self.end - self.begin - 1).sum())
        return _facts(int(self.first[-1]), self.seq_len, inputs, self.starts)

    def _spans(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First token of each sequence, and its tokens that are inputs."""
        source = np.searchsorted(self.first, numbers, "right") - 1
        start = self.begin[source] + (numbers - self.first[source]) * self.seq_len
        return start, np.minimum(self.seq_len, self.end[source] - start - 1)

    def pieces(self, number: int) -> list[tuple[int, int]]:
        """(first token, tokens) of each run of inputs of a sequence."""
        start, length = self._spans(np.array([number]))
        return [(int(start[0]), int(length[0]))]

    def targets(self, numbers: np.ndarray) -> int:
        """How many targets the sequences have."""
        start, length = self._spans(numbers)
        total = int(length.sum())
        return total - int(_starts_inside(self.starts, start, length)) if self.masked else total

    def fill(self, tokens: np.ndarray, numbers: np.ndarray, ids: np.ndarray, targets: np.ndarray,
             segments: np.ndarray, blank: int, ignore: int) -> None:  # fmt: skip
        """Write the sequences into ids, targets (int64 [rows, T]) and, where it has rows, segments (int32)."""
        start, length = self._spans(numbers)
        _fill_chunks(tokens, start, length, ids, targets, blank, ignore)
        if self.masked:
            _mask_chunks(self.starts, start, length, targets, segments, ignore)


@dataclass(frozen=True)
class Packed:
    """Sequences of whole pieces: sequence i holds `table[bounds[i]:bounds[i + 1]]`."""

    names: tuple[str, ...]  # of the sources
    seq_len: int
    first: np.ndarray  # int64 [sources + 1], first sequence of each source
    table: np.ndarray  # PIECE [pieces]
    bounds: np.ndarray  # int64 [sequences + 1]
    starts: np.ndarray  # int64 [documents + 1], first token of each document

    @property
    def sizes(self) -> dict[str, int]:
        """Sequences of each source."""
        return dict(zip(self.names, np.diff(self.first).tolist(), strict=True))

    def facts(self) -> dict[str, float]:
        """`sequences`; `padding`, the share of their slots without an input; `cut`, documents longer than T."""
        inputs = int(self.table["length"].sum(dtype=np.int64))
        return _facts(int(self.first[-1]), self.seq_len, inputs, self.starts)

    def pieces(self, number: int) -> list[tuple[int, int]]:
        """(first token, tokens) of each piece of a sequence."""
        found = self.table[self.bounds[number] : self.bounds[number + 1]]
        return list(zip(found["start"].tolist(), found["length"].tolist(), strict=True))

    def targets(self, numbers: np.ndarray) -> int:
        """How many targets the sequences have."""
        return int(_packed_targets(self.table, self.bounds, numbers))

    def fill(self, tokens: np.ndarray, numbers: np.ndarray, ids: np.ndarray, targets: np.ndarray,
             segments: np.ndarray, blank: int, ignore: int) -> None:  # fmt: skip
        """As `Chunks.fill`."""
        _fill_packed(tokens, self.table, self.bounds, numbers, ids, targets, segments, blank, ignore)


Packing = Chunks | Packed


def _facts(sequences: int, seq_len: int, inputs: int, starts: np.ndarray) -> dict[str, float]:
    padding = 1 - inputs / (sequences * seq_len) if sequences else 0.0
    return {"sequences": sequences, "padding": padding, "cut": int(_longer(starts, seq_len))}


def open_packing(index: TokenIndex, config: TrainConfig, starts: np.ndarray, cache: Path) -> Packing:
    """The training sequences as the configuration asks. `starts` as `trainer.tokens.document_starts` gives them."""
    if config.packing == "best_fit":
        return best_fit(index, "train", config.seq_len, starts, cache)
    return chunks(index, "train", config.seq_len, starts, config.document_mask)


def chunks(index: TokenIndex, split: str, seq_len: int, starts: np.ndarray, masked: bool) -> Chunks:
    sources = index.spans(split)
    spans = np.array(list(sources.values()), np.int64).reshape(-1, 4)
    begin, end = spans[:, 2], spans[:, 3]
    sizes = np.maximum(0, -(-(end - begin - 1) // seq_len))
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Chunks(tuple(sources), seq_len, first, begin, end, starts, masked)


def best_fit(index: TokenIndex, split: str, seq_len: int, starts: np.ndarray, cache: Path) -> Packed:
    """The packing of a split, made on the first call and mapped from `cache` on later ones."""
    paths = packing_files(index, split, seq_len, cache)
    with locked(cache):
        if not paths[2].exists():  # written last: there, it vouches for the other two
            for stale in cache.glob(f"*-*-{split}-*.bin"):
                if index.digest[:16] not in stale.name:
                    stale.unlink()
            _write_packing(index, split, seq_len, starts, paths)
    table, bounds, first = (mapped(path, kind) for path, kind in zip(paths, _KINDS, strict=True))
    return Packed(tuple(index.spans(split)), seq_len, first, table, bounds, starts)


def packing_files(index: TokenIndex, split: str, seq_len: int, cache: Path) -> list[Path]:
    """Pieces, bounds and, written last, the first sequence of each source."""
    stem = f"{index.digest[:16]}-{split}-{seq_len}.bin"
    return [cache / f"{kind}-{stem}" for kind in ("pieces", "bounds", "packed")]


def _write_packing(index: TokenIndex, split: str, seq_len: int, starts: np.ndarray, paths: list[Path]) -> None:
    first, pieces = [0], 0
    with written(paths[0]) as table, written(paths[1]) as bounds:
        np.zeros(1, np.int64).tofile(bounds)
        for row, end, _, _ in index.spans(split).values():
            sequences = 0
            for low, high in bins.groups(starts, row, end, seq_len):
                found, ends = bins.pack(starts[low : high + 1], seq_len)
                found.tofile(table)
                (ends + pieces).tofile(bounds)
                pieces, sequences = pieces + len(found), sequences + len(ends)
            first.append(first[-1] + sequences)
    with written(paths[2]) as file:
        np.array(first, np.int64).tofile(file)


@njit(cache=True, nogil=True)
def _longer(starts, seq_len):
    total = 0
    for doc in range(len(starts) - 1):
        total += starts[doc + 1] - starts[doc] > seq_len
    return total


@njit(cache=True, nogil=True)
def _fill_chunks(tokens, start, length, ids, targets, blank, ignore):
    rows, width = ids.shape
    for row in range(rows):
        at, n = start[row], length[row]
        for slot in range(n):
            ids[row, slot] = tokens[at + slot]
            targets[row, slot] = tokens[at + slot + 1]
        for slot in range(n, width):
            ids[row, slot] = blank
            targets[row, slot] = ignore


@njit(cache=True, nogil=True)
def _mask_chunks(starts, start, length, targets, segments, ignore):
    """Number the documents of each row, and take the first token of each from the targets."""
    rows, width = segments.shape
    for row in range(rows):
        at, n = start[row], length[row]
        doc = np.searchsorted(starts, at, "right")
        number, edge = 0, starts[doc] - at
        for slot in range(n + 1):
            if slot == edge:
                number += slot < n
                targets[row, slot - 1] = ignore
                while starts[doc] - at <= slot:  # documents without tokens start there too
                    doc += 1
                edge = starts[doc] - at
            if slot < n:
                segments[row, slot] = number
        for slot in range(n, width):  # padding is a segment of its own
            segments[row, slot] = number + 1


@njit(cache=True, nogil=True)
def _starts_inside(starts, start, length):
    """Targets that are the first token of a document: document starts in (start, start + length], each once."""
    total = 0
    for row in range(len(start)):
        doc = np.searchsorted(starts, start[row], "right")
        last = start[row]
        while doc < len(starts) and starts[doc] <= start[row] + length[row]:
            total += starts[doc] != last
            last = starts[doc]
            doc += 1
    return total


@njit(cache=True, nogil=True)
def _packed_targets(pieces, bounds, numbers):
    total = 0
    for number in numbers:
        for piece in range(bounds[number], bounds[number + 1]):
            total += pieces[piece].targets
    return total


@njit(cache=True, nogil=True)
def _fill_packed(tokens, pieces, bounds, numbers, ids, targets, segments, blank, ignore):
    rows, width = ids.shape
    for row in range(rows):
        at, number = 0, 0
        for piece in range(bounds[numbers[row]], bounds[numbers[row] + 1]):
            start, length, known = pieces[piece].start, pieces[piece].length, pieces[piece].targets
            for slot in range(length):
                ids[row, at + slot] = tokens[start + slot]
            for slot in range(known):
                targets[row, at + slot] = tokens[start + slot + 1]
            if known < length:
                targets[row, at + known] = ignore
            if len(segments):
                for slot in range(length):
                    segments[row, at + slot] = number
            at, number = at + length, number + 1
        for slot in range(at, width):
            ids[row, slot] = blank
            targets[row, slot] = ignore
            if len(segments):
                segments[row, slot] = number
