"""Words, shingles and MinHash band keys, compiled straight over Arrow string buffers.

A word is a maximal run of `\\w` as Python's `re` has it for `str`, without its case (simple case folding; the Unicode
tables are those of the running Python). In scripts written without spaces (Han, kana, Thai, Lao, Burmese,
Khmer) every code point is a word of its own, so that shingles mean something there too.

Trade-off: texts are decoded again by each kernel and never copied; nothing is kept for each document but its
result. Hashes are 64-bit multiplicative ones: well mixed, not proof against someone who forges collisions.
Cost, one core: about 150 MB of text a second for band keys with 112 permutations (50,000 texts of 3 kB).
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numba import njit

from stages.kernels.chars import decode

_LIMIT = 0x32400  # no code point from here on is a letter or a digit
_ALONE = np.uint32(1 << 31)  # flag of a code point that is a word of its own
_UNSPACED = ((0x0E00, 0x0F00), (0x1000, 0x10A0), (0x1780, 0x1800), (0x3005, 0x3008), (0x3040, 0x3100),
             (0x31F0, 0x3200), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0xFF66, 0xFFA0),
             (0x1B000, 0x1B170), (0x20000, _LIMIT))  # fmt: skip
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_BASE = np.uint64(0xD6E8FEB86659FD93)
_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
_BLOCK = 256


@lru_cache(maxsize=1)
def fold_table() -> np.ndarray:
    """uint32[_LIMIT]: each code point without its case: `str.casefold` where that is one code point."""
    table = np.arange(_LIMIT, dtype=np.uint32)
    for point in range(0x1F000):  # no cased letters above
        letter = chr(point)
        folded = letter.casefold()
        table[point] = ord(folded if len(folded) == 1 else letter.lower()[0])
    return table


@lru_cache(maxsize=1)
def word_table() -> np.ndarray:
    """uint32[_LIMIT]: 0 outside words, else the case folding, with bit 31 set where a code point is a word alone."""
    table = np.zeros(_LIMIT, np.uint32)
    for run in re.finditer(r"\w+", "".join(map(chr, range(_LIMIT)))):
        table[run.start() : run.end()] = fold_table()[run.start() : run.end()]
    for start, end in _UNSPACED:
        table[start:end] |= np.where(table[start:end] > 0, _ALONE, np.uint32(0))
    return table


def text_spans(texts: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(data uint8[], starts int64[n], ends int64[n]) of a string array; a null is an empty span. Nothing is copied."""
    wide = pa.types.is_large_string(texts.type) or pa.types.is_large_binary(texts.type)
    _, offset_buffer, data_buffer = texts.buffers()
    if len(texts) == 0 or offset_buffer is None:
        return np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64)
    offsets = np.frombuffer(offset_buffer, np.int64 if wide else np.int32)[texts.offset : texts.offset + len(texts) + 1]
    starts, ends = offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64)
    if texts.null_count:
        ends = np.where(np.asarray(texts.is_valid()), ends, starts)
    data = np.zeros(0, np.uint8) if data_buffer is None else np.frombuffer(data_buffer, np.uint8)
    return data, starts, ends


@njit(cache=True, nogil=True, inline="always")
def mix(value):
    """Finaliser of MurmurHash3 (Appleby, public domain): uint64 to uint64."""
    value = (value ^ (value >> np.uint64(33))) * _MIX_1
    value = (value ^ (value >> np.uint64(33))) * _MIX_2
    return value ^ (value >> np.uint64(33))


@njit(cache=True, nogil=True)
def next_word(data, at, end, table):
    """(hash, next position) of the first word at or after `at`; hash 0 means that there is none."""
    state = np.uint64(0)
    inside = False
    while at < end:
        byte = data[at]
        if byte < 0x80:
            letter, after = table[byte], at + 1
        else:
            point, after = decode(data, at, end)
            letter = table[point] if point < _LIMIT else np.uint32(0)
        if letter == 0:
            if inside:
                break
        elif letter & _ALONE:
            if not inside:
                state = np.uint64(letter)
                inside = True
                at = after
            break
        else:
            inside = True
            state = ((state << np.uint64(5)) ^ (state >> np.uint64(59)) ^ np.uint64(letter)) * _PRIME
        at = after
    if not inside:
        return np.uint64(0), at
    return mix(state) | np.uint64(1), at


@njit(cache=True, nogil=True)
def word_hashes(data, start, end, table):
    """uint64[words] of one text: for what is small, such as probe items."""
    out = np.empty((end - start) // 2 + 2, np.uint64)
    count, at = 0, start
    while True:
        word, at = next_word(data, at, end, table)
        if word == 0:
            return out[:count].copy()
        out[count] = word
        count += 1


@njit(cache=True, nogil=True)
def power(exponent):
    value = np.uint64(1)
    for _ in range(exponent):
        value = value * _BASE
    return value


def permutations(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(a, b), uint32[count] each, of x -> a x + b mod 2^32 with a odd; fixed for ever."""
    with np.errstate(over="ignore"):
        seeds = mix.py_func(np.arange(1, 2 * count + 1, dtype=np.uint64) * _PRIME)
    return (seeds[:count] >> np.uint64(32)).astype(np.uint32) | np.uint32(1), seeds[count:].astype(np.uint32)


@njit(cache=True, nogil=True)
def _lower_minima(minima, block, count, a, b):
    for p in range(len(minima)):
        best, slope, shift = minima[p], a[p], b[p]
        for i in range(count):
            best = min(best, np.uint32(slope * block[i] + shift))
        minima[p] = best


@njit(cache=True, nogil=True)
def signatures(data, starts, ends, table, ngram, a, b, bands, max_bytes):
    """Band keys of each text: (keys uint64[n, bands], words_hash uint64[n], words int32[n]).

    A shingle is `ngram` words in order; a text of fewer words has one shingle of all of them. The minimum of each
    permutation (Broder 1997) over the 32-bit shingle hashes makes the signature of `len(a)` values, and each run
    of `len(a) / bands` values makes one key. Only shingles that end in the first `max_bytes` bytes count for
    the keys; `words_hash` and `words` see the whole text.
    """
    n = len(starts)
    keys = np.empty((n, bands), np.uint64)
    words_hash = np.empty(n, np.uint64)
    words = np.empty(n, np.int32)
    rows = len(a) // bands
    top = power(ngram)
    block = np.empty(_BLOCK, np.uint32)
    ring = np.empty(ngram, np.uint64)
    minima = np.empty(len(a), np.uint32)
    for doc in range(n):
        minima[:] = np.uint32(0xFFFFFFFF)
        at, end = starts[doc], ends[doc]
        limit = min(end, at + max_bytes)
        rolling, whole = np.uint64(0), np.uint64(0)
        count, filled, slot = 0, 0, 0
        while True:
            word, at = next_word(data, at, end, table)
            if word == 0:
                break
            whole = whole * _BASE + word
            if at <= limit:
                rolling = rolling * _BASE + word
                if count >= ngram:
                    rolling = rolling - ring[slot] * top
                ring[slot] = word
                slot = slot + 1 if slot + 1 < ngram else 0
                if count + 1 >= ngram:
                    block[filled] = np.uint32(mix(rolling) >> np.uint64(32))
                    filled += 1
                    if filled == _BLOCK:
                        _lower_minima(minima, block, filled, a, b)
                        filled = 0
            count += 1
        if 0 < count < ngram:
            block[0] = np.uint32(mix(whole) >> np.uint64(32))
            filled = 1
        _lower_minima(minima, block, filled, a, b)
        words[doc] = count
        words_hash[doc] = mix(whole)
        for band in range(bands):
            key = np.uint64(band + 1)
            for row in range(band * rows, (band + 1) * rows):
                key = mix(key * _BASE + np.uint64(minima[row]))
            keys[doc, band] = key
    return keys, words_hash, words


@njit(cache=True, nogil=True)
def shingle_sets(data, starts, ends, table, ngram, words):
    """The distinct shingle hashes of each text, sorted: (hashes uint32[], first int64[n], size int64[n]).

    `words` gives the number of words of each text. Text i owns hashes[first[i] : first[i] + size[i]]. With 32 bits a
    Jaccard is off by less than 1e-4 for texts below 400,000 words.
    """
    n = len(starts)
    first = np.zeros(n, np.int64)
    size = np.zeros(n, np.int64)
    total = 0
    for doc in range(n):
        first[doc] = total
        total += max(np.int64(words[doc]) - ngram + 1, 1)
    hashes = np.empty(total, np.uint32)
    top = power(ngram)
    ring = np.empty(ngram, np.uint64)
    for doc in range(n):
        at, end, fill = starts[doc], ends[doc], first[doc]
        rolling = np.uint64(0)
        count, slot = 0, 0
        while True:
            word, at = next_word(data, at, end, table)
            if word == 0:
                break
            rolling = rolling * _BASE + word
            if count >= ngram:
                rolling = rolling - ring[slot] * top
            ring[slot] = word
            slot = slot + 1 if slot + 1 < ngram else 0
            count += 1
            if count >= ngram:
                hashes[fill] = np.uint32(mix(rolling) >> np.uint64(32))
                fill += 1
        if 0 < count < ngram:
            hashes[fill] = np.uint32(mix(rolling) >> np.uint64(32))
            fill += 1
        ordered = np.sort(hashes[first[doc] : fill])
        kept = 0
        for i in range(len(ordered)):
            if i == 0 or ordered[i] != ordered[i - 1]:
                hashes[first[doc] + kept] = ordered[i]
                kept += 1
        size[doc] = kept
    return hashes, first, size
