"""Stop words of many languages, counted in a compiled loop: occurrences and distinct ones of each document.

The words of all languages lie in one byte buffer. Each language has 256 buckets, chosen by the first and the last byte
and the width of a word; a word of the text is compared byte by byte with those of its bucket alone, which for the eight
of English is mostly empty. Any length and script works. Cost: about 1 ns for a word of the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from pipeline.stage import Batch
from stages.kernels import chars, fold


@dataclass(frozen=True)
class Lists:
    """Stop words of `languages`; those of bucket b of language l are `buckets[l, b]:buckets[l, b + 1]`."""

    languages: tuple[str, ...]
    data: np.ndarray  # uint8
    offsets: np.ndarray  # int32[words + 1], in `data`
    buckets: np.ndarray  # int32[languages, 257]


def lists(stop_words: Mapping[str, Sequence[str]]) -> Lists:
    languages = tuple(sorted(stop_words))
    texts: list[bytes] = []
    buckets = np.zeros((max(len(languages), 1), 257), np.int32)
    for row, language in enumerate(languages):
        encoded = [word.encode() for word in dict.fromkeys(stop_words[language])]
        encoded.sort(key=lambda word: (_bucket(word[0], word[-1], len(word)), word))
        numbers = [_bucket(word[0], word[-1], len(word)) for word in encoded]
        buckets[row] = len(texts) + np.searchsorted(numbers, np.arange(257))
        texts += encoded
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    return Lists(languages, np.frombuffer(b"".join(texts) + b"\0", np.uint8), offsets, buckets)


def rows(found: Lists, batch: Batch, language: str, by: str) -> np.ndarray:
    """int32[docs]: the row of each document's language in `found`, -1 where it has no list."""
    if not by:
        row = found.languages.index(language) if language in found.languages else -1
        return np.full(batch.num_rows, row, np.int32)
    column = batch[by].cast(pa.string())
    return np.asarray(pc.fill_null(pc.index_in(column, value_set=pa.array(found.languages, pa.string())), -1), np.int32)


@cache
def lower_table() -> np.ndarray:
    """int32[0x110000]: `str.lower()` of each code point, itself where that is not one code point. Takes .2 s."""
    lowered = (chr(point).lower() for point in range(0x110000))
    return np.array([ord(low) if len(low) == 1 else point for point, low in enumerate(lowered)], np.int32)


@njit(cache=True, nogil=True)
def _bucket(first, last, width):
    return (first + 3 * last + 41 * width) & 255


@njit(cache=True, nogil=True)
def _lowered(data, start, end, lower, out):
    """Write the lower-case word to `out`; returns its bytes."""
    at = 0
    while start < end:
        point, start = chars.decode(data, start, end)
        at = fold._put(out, at, lower[point])
    return at


@njit(cache=True, nogil=True)
def count(data, doc_offsets, starts, ends, language, stop_data, stop_offsets, buckets, lower, out):
    """Fill `out` int32[2, docs]: words that are stop words, and how many different ones; 0 without a list.

    `lower` is empty, so that case counts, or `lower_table()`: words of the text are then lower-cased, code point by
    code point (a final sigma as any other).
    """
    seen = np.full(len(stop_offsets), -1, np.int32)  # the last document with the stop word
    longest = 0
    for s in range(len(stop_offsets) - 1):
        longest = max(longest, stop_offsets[s + 1] - stop_offsets[s])
    scratch = np.empty(6 * longest + 8, np.uint8)  # lower case takes between a third and 1.5 times the bytes
    for doc in range(len(doc_offsets) - 1):
        row = language[doc]
        if row < 0:
            continue
        occurrences, distinct = 0, 0
        for k in range(doc_offsets[doc], doc_offsets[doc + 1]):
            text, start, width = data, np.int64(starts[k]), np.int64(ends[k]) - np.int64(starts[k])
            if len(lower) and width <= 3 * longest:
                width = _lowered(data, start, start + width, lower, scratch)
                text, start = scratch, np.int64(0)
            bucket = _bucket(np.int64(text[start]), np.int64(text[start + width - 1]), width)
            for s in range(buckets[row, bucket], buckets[row, bucket + 1]):
                at, i = stop_offsets[s], 0
                if stop_offsets[s + 1] - at != width:
                    continue
                while i < width and stop_data[at + i] == text[start + i]:
                    i += 1
                if i == width:
                    occurrences += 1
                    distinct += seen[s] != doc
                    seen[s] = doc
                    break
        out[0, doc], out[1, doc] = occurrences, distinct
