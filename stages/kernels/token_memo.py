"""A bounded memo of words and their spaCy tokens: what `tokens.py` looks words up in.

A word is looked up by a 64-bit hash in an open-addressing table, and confirmed byte by byte. New words of a plain form
get their tokens from compiled code: letters of any script or ASCII digits, with at most one opening mark before and
one closing mark after them. spaCy splits these at the marks and nowhere else unless a special case is involved, which
are in the memo from the start; a word that holds one goes to spaCy, as do all other words.

Trade-off: 32 bytes of a row, 4 to 8 of a slot and its own bytes for each word, at most about 45 MB; a full memo
starts anew. `ngrams.SEED` keeps a hostile page from making it slow, results depend on neither.
"""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
from numba import njit

from stages.kernels import chars, english_tokens, ngrams, words

MEMO_WORDS = 1 << 19
MEMO_BYTES = 1 << 23
NEW_BYTES = 1 << 19  # of new words for one call of the tokenizer

HASH, BYTES, WIDTH, TOKENS = range(4)  # columns of a row; TOKENS is first << 32 | count << 8 | bits of a sole token

_OPENING = b'(["'
_CLOSING = b",;:!?)]\"'."
_MARKS = np.zeros(128, np.uint8)  # 1 opening, 2 closing, 3 both
_MARKS[list(_OPENING)] |= 1
_MARKS[list(_CLOSING)] |= 2


class Memo:
    """Tokens of the words seen so far, by number. `rows` is uint64[MEMO_WORDS, 4].

    The tokens of a word follow each other from `first`: `ends` in bytes from the start of the word, `lengths` in code
    points, `bits` as in `english_tokens`.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rows = np.empty((MEMO_WORDS, 4), np.uint64)
        self.arena = np.empty(MEMO_BYTES, np.uint8)
        self.ends = np.empty(MEMO_BYTES, np.uint16)  # a token has at least one byte
        self.lengths = np.empty(MEMO_BYTES, np.uint16)
        self.bits = np.empty(MEMO_BYTES, np.uint8)
        self.clear()

    def clear(self) -> None:
        """Forget all words but spaCy's special cases."""
        self.slots = np.zeros(1 << 14, np.int32)  # number + 1; 0 is free
        self.size, self.used, self.tokens, self.special = 0, 0, 0, 0
        cases = pa.array(english_tokens.special_cases(), pa.binary())
        offsets, data = words.buffers(cases)
        done = 0
        while done < len(cases):
            done += len(self.numbers(data, offsets[:-1], offsets[1:], done))
        self.special = self.size

    def numbers(self, data: np.ndarray, starts: np.ndarray, ends: np.ndarray, lo: int) -> np.ndarray:
        """int32 numbers of the words from `lo` on, as many as fit into the memo; none when it is full.

        Raises what the tokenizer raises; the memo is then as if full.
        """
        ids = np.empty(len(starts) - lo, np.int32)
        at, known = lo, self.size
        room = NEW_BYTES
        try:
            while True:
                before = self.used
                at, self.size, self.used = _find(data, starts, ends, at, lo, ngrams.SEED, room, self.slots, self.rows,
                                                 self.arena, self.size, self.used, ids)  # fmt: skip
                room -= self.used - before
                if 2 * self.size < len(self.slots) or len(self.slots) >= 2 * MEMO_WORDS:
                    break
                self.slots = np.zeros(2 * len(self.slots), np.int32)
                _rehash(self.rows, self.size, self.slots)
            self._tokenize(known)
        except BaseException:
            self.slots, self.size = np.zeros(2 * MEMO_WORDS, np.int32), MEMO_WORDS  # no word without tokens is found
            raise
        return ids[: at - lo]

    def _tokenize(self, known: int) -> None:
        """Tokens of the words from number `known` on."""
        rest = np.empty(self.size - known, np.int64)
        count, self.tokens = _plain(self.arena, known, self.size, self.special, ngrams.SEED, self.slots, self.rows,
                                    *chars.tables(), english_tokens.marks(), self.tokens, self.ends, self.lengths,
                                    self.bits, rest)  # fmt: skip
        if count == 0:
            return
        rest = rest[:count]
        bounds = zip(self.rows[rest, BYTES].tolist(), self.rows[rest, WIDTH].tolist(), strict=True)
        raw = self.arena.data
        counts, ends, lengths, bits = english_tokens.split(b"\n".join([raw[at : at + width] for at, width in bounds]))
        total = len(ends)
        self.ends[self.tokens : self.tokens + total] = ends
        self.lengths[self.tokens : self.tokens + total] = lengths
        self.bits[self.tokens : self.tokens + total] = bits
        first = self.tokens + np.cumsum(counts) - counts
        self.rows[rest, TOKENS] = (first << 32) | (counts << 8) | self.bits[first]
        self.tokens += total


@njit(cache=True, nogil=True)
def _hash(data, start, end, seed):
    value = seed
    for i in range(start, end):
        value = (value ^ np.uint64(data[i])) * ngrams._PRIME
    return ngrams.mix(value, seed)


@njit(cache=True, nogil=True)
def _is(data, start, width, value, row, arena):
    """Is the word `data[start : start + width]` that of the row?"""
    if row[HASH] != value or np.int64(row[WIDTH]) != width:
        return False
    at, i = np.int64(row[BYTES]), 0
    while i < width and arena[at + i] == data[start + i]:
        i += 1
    return i == width


@njit(cache=True, nogil=True)
def _look_up(data, start, end, value, slots, rows, arena):
    """`(number or -1, slot)` of a word with the hash `value`."""
    mask = np.uint64(len(slots) - 1)
    slot = value & mask
    while slots[slot] > 0:
        if _is(data, start, end - start, value, rows[slots[slot] - 1], arena):
            return slots[slot] - 1, slot
        slot = (slot + np.uint64(1)) & mask
    return -1, slot


@njit(cache=True, nogil=True)
def _find(data, starts, ends, at, lo, seed, room, slots, rows, arena, size, used, ids):
    """Number the words from `at` on, new ones too; returns `(first word without a number, words, bytes used)`.

    Hashes, slots and rows of a block of words are fetched each in a loop of its own, so that the processor waits for
    many cache misses at once and not for one after the other.
    """
    mask = np.uint64(len(slots) - 1)
    values, likely = np.empty(256, np.uint64), np.empty(256, np.int64)
    for block in range(at, len(starts), 256):
        count = min(256, len(starts) - block)
        for k in range(count):
            values[k] = _hash(data, np.int64(starts[block + k]), np.int64(ends[block + k]), seed)
        for k in range(count):
            likely[k] = slots[values[k] & mask] - 1
        for k in range(count):
            if likely[k] >= 0 and rows[likely[k], HASH] != values[k]:
                likely[k] = -1
        for k in range(count):
            start, end = np.int64(starts[block + k]), np.int64(ends[block + k])
            known = likely[k]
            if known < 0 or not _is(data, start, end - start, values[k], rows[known], arena):
                known, slot = _look_up(data, start, end, values[k], slots, rows, arena)
                if known < 0:
                    if size >= len(rows) or used + end - start > len(arena) or room < 0 or 2 * size >= len(slots):
                        return block + k, size, used
                    arena[used : used + end - start] = data[start:end]
                    rows[size, HASH], rows[size, BYTES], rows[size, WIDTH] = values[k], used, end - start
                    used += end - start
                    room -= end - start
                    known = size
                    size += 1
                    slots[slot] = size
            ids[block + k - lo] = known
    return len(starts), size, used


@njit(cache=True, nogil=True)
def _rehash(rows, size, slots):
    mask = np.uint64(len(slots) - 1)
    for k in range(size):
        slot = rows[k, HASH] & mask
        while slots[slot] > 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = k + 1


@njit(cache=True, nogil=True)
def _is_special(arena, start, end, special, seed, slots, rows):
    known, _ = _look_up(arena, start, end, _hash(arena, start, end, seed), slots, rows, arena)
    return 0 <= known < special


@njit(cache=True, nogil=True)
def _core(arena, start, end, pages, classes):
    """`(form, code points)` of a span: 1 letters, 2 ASCII digits, 0 anything else."""
    letters, digits, size = start < end, start < end, 0
    i = start
    while i < end and (letters or digits):
        cp, i = chars.decode(arena, i, end)
        letters = letters and (chars.bits_of(cp, pages, classes) & chars.ALPHA) != 0
        digits = digits and 48 <= cp <= 57
        size += 1
    return (1 if letters else 2 if digits else 0), size


@njit(cache=True, nogil=True)
def _splits_full_stop(arena, start, stop):
    """Does spaCy cut a full stop at `stop`? After a lower-case letter or a digit, and after two capitals: no others."""
    last = arena[stop - 1]
    if 97 <= last <= 122 or 48 <= last <= 57:
        return True
    return stop - start >= 2 and 65 <= last <= 90 and 65 <= arena[stop - 2] <= 90


@njit(cache=True, nogil=True)
def _plain(arena, lo, hi, special, seed, slots, rows, pages, classes, marks, tokens, ends, lengths, bits, rest):
    """Tokens of the plain words among `lo:hi`; returns `(other words, tokens)`, the numbers of the others in `rest`."""
    others = 0
    for k in range(lo, hi):
        start = np.int64(rows[k, BYTES])
        end = start + np.int64(rows[k, WIDTH])
        head, tail = start, end
        if arena[start] < 128 and _MARKS[arena[start]] & 1:
            head += 1
        if tail - head > 1 and arena[tail - 1] < 128 and _MARKS[arena[tail - 1]] & 2:
            tail -= 1
        form, size = _core(arena, head, tail, pages, classes)
        plain = special > 0 and form > 0
        if plain and (head > start or tail < end):
            plain = not (
                (tail < end and arena[tail] == 46 and not _splits_full_stop(arena, head, tail))
                or _is_special(arena, head, tail, special, seed, slots, rows)
                or _is_special(arena, start, tail, special, seed, slots, rows)
                or _is_special(arena, head, end, special, seed, slots, rows)
            )
        if not plain:
            rest[others] = k
            others += 1
            continue
        first = tokens
        core = english_tokens.TEXT | english_tokens.NOT_PUNCTUATION | (chars.ALPHA if form == 1 else np.uint8(0))
        if head > start:
            ends[tokens], lengths[tokens], bits[tokens] = 1, 1, marks[arena[start]]
            tokens += 1
        ends[tokens], lengths[tokens], bits[tokens] = tail - start, size, core
        tokens += 1
        if tail < end:
            ends[tokens], lengths[tokens], bits[tokens] = end - start, 1, marks[arena[tail]]
            tokens += 1
        rows[k, TOKENS] = np.uint64((first << 32) | ((tokens - first) << 8) | np.int64(bits[first]))
    return others, tokens
