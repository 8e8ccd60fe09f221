"""Compiled counting of repeated lines, words and word n-grams, exact: equal hashes are confirmed, never trusted.

Words (or lines) of a document get dense numbers in the order of their first occurrence (`intern`). An n-gram is
the pair of its first n-1 words, already numbered, and its last word (`extend`), so a 64-bit key identifies it without
a hash of text. An n-gram can repeat only where both (n-1)-grams inside it do: only those positions are looked at, which
on ordinary prose leaves almost nothing past n = 4.

Hash tables are open-addressed and sized by the document. `SEED` is drawn anew in each process, so that a page cannot be
built to make them slow; results do not depend on it.
"""

from __future__ import annotations

import os

import numpy as np
from numba import njit

SEED = np.uint64(int.from_bytes(os.urandom(8), "little"))

_PRIME = np.uint64(0x100000001B3)
_MIX = np.uint64(0x9E3779B97F4A7C15)


@njit(cache=True, nogil=True)
def capacity(items):
    """Smallest power of two that is at least twice `items`: the slots of a half-empty hash table."""
    size = 4
    while size < 2 * items:
        size *= 2
    return size


@njit(cache=True, nogil=True)
def mix(value, seed):
    """Spread a 64-bit key over all bits."""
    value = (value ^ seed) * _MIX
    value ^= value >> np.uint64(32)
    value *= _MIX
    return value ^ (value >> np.uint64(29))


@njit(cache=True, nogil=True)
def same(data, a, b, size):
    """Are `size` bytes at `a` and at `b` equal?"""
    for k in range(size):  # noqa: SIM110 - numba has no all()
        if data[a + k] != data[b + k]:
            return False
    return True


@njit(cache=True, nogil=True)
def intern(data, starts, ends, lo, hi, seed, table, ids, first, counts):
    """Number the byte spans `lo:hi` by content; returns how many differ.

    `ids[k - lo]` is the number of span k, `first[id]` its first span (relative to `lo`), `counts[id]` how often it
    occurs. `table` is int32 scratch of at least `capacity(hi - lo)`.
    """
    size = capacity(hi - lo)
    table[:size] = -1
    mask = np.uint64(size - 1)
    distinct = 0
    for k in range(lo, hi):
        start, width = starts[k], ends[k] - starts[k]
        value = seed
        for i in range(start, ends[k]):
            value = (value ^ np.uint64(data[i])) * _PRIME
        slot = mix(value, seed) & mask
        while True:
            known = table[slot]
            if known < 0:
                table[slot] = distinct
                first[distinct], counts[distinct], ids[k - lo] = k - lo, 1, distinct
                distinct += 1
                break
            other = lo + first[known]
            if ends[other] - starts[other] == width and same(data, starts[other], start, width):
                counts[known] += 1
                ids[k - lo] = known
                break
            slot = (slot + np.uint64(1)) & mask
    return distinct


@njit(cache=True, nogil=True)
def extend(n, total, words, ids, repeated, seed, keys, table, counts):
    """From numbered (n-1)-grams to n-grams, in place; returns how many different ones may repeat.

    `words[i]` numbers word i of `total`. On entry `ids[i]` and `repeated[i]` describe the (n-1)-gram at i, on return
    the n-gram: `ids[i]` is -1 where it cannot repeat, `repeated[i]` says whether it occurs twice or more, `counts[id]`
    how often. Numbers follow the first occurrence. `keys` (uint64) and `table` (int32) are scratch of at least
    `capacity(total)`.
    """
    positions = total - n + 1
    candidates = 0
    for i in range(positions):
        candidates += repeated[i] and repeated[i + 1]
    size = capacity(candidates)
    table[:size] = -1
    mask = np.uint64(size - 1)
    distinct = 0
    for i in range(positions):
        if not (repeated[i] and repeated[i + 1]):
            ids[i] = -1
            continue
        key = (np.uint64(ids[i]) << np.uint64(32)) | np.uint64(words[i + n - 1])
        slot = mix(key, seed) & mask
        while table[slot] >= 0 and keys[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        if table[slot] < 0:
            table[slot], keys[slot], counts[distinct] = distinct, key, 0
            distinct += 1
        ids[i] = table[slot]
        counts[ids[i]] += 1
    for i in range(positions):
        repeated[i] = ids[i] >= 0 and counts[ids[i]] > 1
    return distinct


@njit(cache=True, nogil=True)
def duplicates(data, starts, ends, count, every_copy, seed, table, ids, first, counts):
    """`(spans, code points)` of the spans `0:count` that occur twice or more: every copy, or all but the first."""
    intern(data, starts, ends, 0, count, seed, table, ids, first, counts)
    spans, characters = 0, 0
    for k in range(count):
        known = ids[k]
        if (every_copy and counts[known] > 1) or (not every_copy and first[known] != k):
            spans += 1
            for i in range(starts[k], ends[k]):
                characters += (data[i] & 0xC0) != 0x80
    return spans, characters


@njit(cache=True, nogil=True)
def same_joined(data, starts, ends, a, b, n):
    """Do words a .. a+n-1 and b .. b+n-1 spell the same text when written without spaces?"""
    size_a, size_b = 0, 0
    for k in range(n):
        size_a += ends[a + k] - starts[a + k]
        size_b += ends[b + k] - starts[b + k]
    if size_a != size_b:
        return False
    i, j = starts[a], starts[b]
    for _ in range(size_a):
        while i == ends[a]:
            a += 1
            i = starts[a]
        while j == ends[b]:
            b += 1
            j = starts[b]
        if data[i] != data[j]:
            return False
        i, j = i + 1, j + 1
    return True


@njit(cache=True, nogil=True)
def word_polynomials(data, starts, ends, lo, hi, seed, values, powers):
    """Polynomial hash of each word's bytes and the factor that appends it; joined hashes follow by `v * p + v`."""
    base = seed | np.uint64(1)
    for k in range(lo, hi):
        value, power = np.uint64(0), np.uint64(1)
        for i in range(starts[k], ends[k]):
            value = value * base + np.uint64(data[i]) + np.uint64(1)
            power *= base
        values[k - lo], powers[k - lo] = value, power


@njit(cache=True, nogil=True)
def later_copies(data, starts, ends, lengths, lo, hi, n, joined, seed, table):
    """Code points in n-grams that repeat an earlier one, reading from the left and jumping over each repeat.

    `joined[i]` is the hash of the n-gram at i written without spaces, which is what counts as its identity.
    """
    positions = hi - lo - n + 1
    size = capacity(positions)
    table[:size] = -1
    mask = np.uint64(size - 1)
    characters, i = 0, 0
    while i < positions:
        slot = mix(joined[i], seed) & mask
        step = 1
        while True:
            known = table[slot]
            if known < 0:
                table[slot] = i
                break
            if joined[known] == joined[i] and same_joined(data, starts, ends, lo + known, lo + i, n):
                for k in range(lo + i, lo + i + n):
                    characters += lengths[k]
                step = n
                break
            slot = (slot + np.uint64(1)) & mask
        i += step
    return characters
