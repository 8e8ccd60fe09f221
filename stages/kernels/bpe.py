"""Byte-level BPE encoding in compiled code, straight from Arrow's bytes to ids.

A pre-token's ids are looked up in a memo; one that is not there is merged: again and again the adjacent pair whose
merge was learned first, the leftmost of them (Sennrich et al. 2016, as in GPT-2's encoder.py), by a heap, so that a
page of one letter costs n log n. Pre-tokens are cut at LONGEST bytes, which bounds the scratch memory.

The memo is an open-addressing table. A pre-token of at most 16 bytes is its own key; a longer one is confirmed byte by
byte, so no result rests on a hash. Above MEMO_BYTES a pre-token is merged each time. A full memo starts anew. Memory:
about 25 MB for each thread that encodes, 32 to 64 bytes for each merge.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stages.kernels import ngrams
from stages.kernels.pretokens import end_of

LONGEST = 1 << 18
MEMO_BYTES = 96
MEMO_WORDS = 1 << 18
PAD = 16  # readable bytes after the text: words are read eight bytes at a time
NONE = np.int64(-1)
_LOW = np.uint64(0xFFFFFFFF)


class Memo:
    """Ids of the pre-tokens seen so far. A row of `table` (uint64[2 * MEMO_WORDS, 3]) is the key in two words, or hash
    and place in `arena` where it is longer than 16 bytes, and first id << 32 | number of ids << 16 | width; 0 is free.
    """

    def __init__(self) -> None:
        self.table = np.zeros((2 * MEMO_WORDS, 3), np.uint64)
        self.ids = np.empty(1 << 21, np.uint32)
        self.arena = np.empty(1 << 22, np.uint8)
        self.used = np.zeros(3, np.int64)  # rows, ids, bytes of the arena


def pair_table(left: np.ndarray, right: np.ndarray, merged: np.ndarray) -> np.ndarray:
    """uint64[slots, 2]: an open-addressing table of `(left, right)` -> `(rank, merged)`; the rank is the position."""
    table = np.full((int(ngrams.capacity(len(left))), 2), np.iinfo(np.uint64).max, np.uint64)
    _fill(table, left.astype(np.uint64), right.astype(np.uint64), merged.astype(np.uint64))
    return table


@njit(cache=True, nogil=True)
def _fill(table, left, right, merged):
    mask = np.uint64(len(table) - 1)
    for rank in range(len(left)):
        key = left[rank] << np.uint64(32) | right[rank]
        slot = ngrams.mix(key, np.uint64(0)) & mask
        while table[slot, 0] != np.uint64(0xFFFFFFFFFFFFFFFF) and table[slot, 0] != key:
            slot = (slot + np.uint64(1)) & mask
        table[slot, 0] = key  # of a pair that is listed twice the last rank counts, as in a dictionary
        table[slot, 1] = np.uint64(rank) << np.uint64(32) | merged[rank]


@njit(cache=True, nogil=True)
def _pair(table, left, right):
    """rank << 32 | merged id of a pair, or NONE."""
    mask = np.uint64(len(table) - 1)
    key = np.uint64(left) << np.uint64(32) | np.uint64(right)
    slot = ngrams.mix(key, np.uint64(0)) & mask
    while table[slot, 0] != key:
        if table[slot, 0] == np.uint64(0xFFFFFFFFFFFFFFFF):
            return NONE
        slot = (slot + np.uint64(1)) & mask
    return np.int64(table[slot, 1])


@njit(cache=True, nogil=True)
def _push(heap, size, key):
    at = size
    while at > 0 and heap[(at - 1) >> 1] > key:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = key
    return size + 1


@njit(cache=True, nogil=True)
def _pop(heap, size):
    """Remove the least key, which the caller has read; returns the new size."""
    size -= 1
    key, at = heap[size], 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = key
    return size


@njit(cache=True, nogil=True)
def _merge(data, start, end, byte_ids, pairs, out, at):
    """Write the ids of the pre-token `data[start:end]` to `out` from `at` on; returns where they end.

    The heap holds rank << 32 | position of pairs; `found[position]` is the pair's entry now, so that an entry of the
    heap which no longer tells the truth is seen and skipped.
    """
    n = end - start
    ids, found = np.empty(n, np.int64), np.empty(n, np.int64)
    before, after = np.empty(n, np.int32), np.empty(n, np.int32)
    heap, size = np.empty(3 * n, np.int64), 0
    for k in range(n):
        ids[k] = byte_ids[data[start + k]]
        before[k], after[k] = k - 1, k + 1
    for k in range(n):
        found[k] = _pair(pairs, ids[k], ids[k + 1]) if k + 1 < n else NONE
        if found[k] != NONE:
            size = _push(heap, size, (found[k] >> 32) << 32 | k)
    while size:
        key = heap[0]
        size = _pop(heap, size)
        k = key & 0xFFFFFFFF
        if found[k] == NONE or found[k] >> 32 != key >> 32:
            continue
        right = after[k]
        ids[k] = found[k] & 0xFFFFFFFF
        found[right] = NONE
        ids[right] = NONE
        after[k] = after[right]
        if after[k] < n:
            before[after[k]] = k
        for at_pair in (before[k], np.int32(k)):
            if at_pair < 0:
                continue
            found[at_pair] = _pair(pairs, ids[at_pair], ids[after[at_pair]]) if after[at_pair] < n else NONE
            if found[at_pair] != NONE:
                size = _push(heap, size, (found[at_pair] >> 32) << 32 | at_pair)
    alive = np.int64(0)
    while alive < n:
        out[at] = ids[alive]
        at += 1
        alive = np.int64(after[alive])
    return at


@njit(cache=True, nogil=True)
def _eight(data, i):
    """Eight bytes as one word, the first one lowest."""
    i = np.uint64(i)  # an index without a sign needs no check: the compiler makes one load of the eight
    word = np.uint64(0)
    for k in range(np.uint64(8)):
        word |= np.uint64(data[i + k]) << (np.uint64(8) * k)
    return word


@njit(cache=True, nogil=True)
def _long_hash(data, start, end, seed):
    """Hash of a pre-token of more than eight bytes."""
    value = seed
    for i in range(start, end - 8, 8):
        value = ngrams.mix(value ^ _eight(data, i), seed)
    return ngrams.mix(value ^ _eight(data, end - 8), seed)


@njit(cache=True, nogil=True)
def encode(data, offsets, kinds, pattern, digits, byte_ids, pairs, eos, seed, table, pool, arena, used, out, counts):
    """Ids of each document `data[offsets[d]:offsets[d + 1]]` to `out`, their number to `counts`; returns their sum.

    `data` (uint8) goes on for PAD bytes after the last document, `kinds` is what `pretokens.classify` made of it. `eos`
    is appended to each document where it is not negative. `out` has room for one id a byte, and one a document.
    """
    mask = np.uint64(len(table) - 1)
    everything = np.uint64(0xFFFFFFFFFFFFFFFF)
    total = np.int64(0)
    for doc in range(len(offsets) - 1):
        first = total
        end, stop = np.int64(offsets[doc]), np.int64(offsets[doc + 1])
        while end < stop:
            i = end
            end = end_of(data, kinds, i, min(stop, i + LONGEST), pattern, digits)
            width = end - i
            if width > MEMO_BYTES:
                total = _merge(data, i, end, byte_ids, pairs, out, total)
                continue
            low, high = _eight(data, i), np.uint64(0)
            if width <= 8:
                low &= everything >> np.uint64(64 - 8 * width)
                value = ngrams.mix(low ^ np.uint64(width), seed)
            elif width <= 16:
                high = _eight(data, i + 8) & (everything >> np.uint64(128 - 8 * width))
                value = ngrams.mix(ngrams.mix(low, seed) ^ high, seed)
            else:
                low = value = _long_hash(data, i, end, seed)
            slot = value & mask
            found = np.uint64(0)
            while table[slot, 2]:
                if table[slot, 0] == low and table[slot, 2] & np.uint64(0xFFFF) == np.uint64(width):
                    if width <= 16:
                        if table[slot, 1] == high:
                            found = table[slot, 2]
                            break
                    else:
                        place, k = np.int64(table[slot, 1]), 0
                        while k < width and arena[place + k] == data[i + k]:
                            k += 1
                        if k == width:
                            found = table[slot, 2]
                            break
                slot = (slot + np.uint64(1)) & mask
            if found:
                place = np.int64(found >> np.uint64(32))
                for k in range(np.int64(found >> np.uint64(16) & np.uint64(0xFFFF))):
                    out[total + k] = pool[place + k]
                total += np.int64(found >> np.uint64(16) & np.uint64(0xFFFF))
                continue
            known = total
            total = _merge(data, i, end, byte_ids, pairs, out, total)
            if 2 * used[0] >= len(table) or used[1] + width > len(pool) or used[2] + width > len(arena):
                table[:] = 0
                used[:] = 0
                slot = value & mask
            if width > 16:
                high = np.uint64(used[2])
                arena[used[2] : used[2] + width] = data[i:end]
                used[2] += width
            for k in range(known, total):
                pool[used[1] + k - known] = out[k]
            place = used[1]
            table[slot, 0], table[slot, 1] = low, high
            table[slot, 2] = np.uint64(place << 32 | (total - known) << 16 | width)
            used[0] += 1
            used[1] += total - known
        if eos >= 0:
            out[total] = eos
            total += 1
        counts[doc] = total - first
    return total
