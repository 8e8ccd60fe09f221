"""Find known word sequences in documents: one compiled pass, hashed windows against a sorted table.

Trade-off: windows are compared by 64-bit hashes, so a match by chance has a probability of about 2^-40 for each
document; in exchange nothing depends on how many sequences are sought. Cost: 17 bytes for each word of the longest
document; a bit filter answers almost all look-ups from the processor's cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from stages.kernels.minhash import _BASE, mix, next_word, power


class Table(NamedTuple):
    """Windows to find. A key leads to targets `first[k]:first[k + 1]`; a target is a form or a short stem.

    A form (target >= 0) is a set of `total[form]` windows of one item. A short stem (target < 0, number -1 - target)
    counts only where its answer `answers[begin:end]` starts at most `gap` words after it, and so does that of the stem
    `also`, and so on.
    """

    lengths: np.ndarray  # int64: window lengths in use, in words
    powers: np.ndarray  # uint64: base of the hash to each of these
    filter: np.ndarray  # uint8, a power of two: 1 where a key's low bits fall
    keys: np.ndarray  # uint64, sorted, distinct
    first: np.ndarray  # int64[keys + 1]
    targets: np.ndarray  # int64
    total: np.ndarray  # int64[forms]
    form_item: np.ndarray  # int64[forms]
    stem_item: np.ndarray  # int64[stems]
    begin: np.ndarray  # int64[stems]
    end: np.ndarray  # int64[stems]
    gap: np.ndarray  # int64[stems]
    also: np.ndarray  # int64[stems], -1 for none
    answers: np.ndarray  # uint64: words of the answers


@njit(cache=True, nogil=True)
def window_keys(words, length):
    """uint64[max(n - length + 1, 0)]: the key of each window of `length` words (uint64 hashes)."""
    out = np.empty(max(len(words) - length + 1, 0), np.uint64)
    top = power(length)
    rolling = np.uint64(0)
    for i in range(len(words)):
        rolling = rolling * _BASE + words[i]
        if i >= length:
            rolling = rolling - words[i - length] * top
        if i >= length - 1:
            out[i - length + 1] = mix(rolling + np.uint64(length))
    return out


@njit(cache=True, nogil=True)
def _follows(words, start, stop, answers, begin, end):
    size = end - begin
    for at in range(start, min(stop, len(words) - size) + 1):
        same = True
        for i in range(size):
            if words[at + i] != answers[begin + i]:
                same = False
                break
        if same:
            return True
    return False


@njit(cache=True, nogil=True)
def scan(data, starts, ends, letters, table):
    """(overlap float32[n], item int64[n]) of each text: the greatest share of an item found, and the first such item.

    The share of a form is its distinct windows found over all of them; a short stem with its answer has share 1. No
    window found: 0 and -1.
    """
    n = len(starts)
    overlap, item = np.zeros(n, np.float32), np.full(n, -1, np.int64)
    longest = 0
    for doc in range(n):
        longest = max(longest, ends[doc] - starts[doc])
    store = np.empty(longest // 2 + 2, np.uint64)
    prefix = np.empty(longest // 2 + 3, np.uint64)
    seen = np.full(len(table.keys), -1, np.int32)
    hits = np.zeros(len(table.total), np.int32)
    owner = np.full(len(table.total), -1, np.int32)
    mask = np.uint64(len(table.filter) - 1)
    prefix[0] = np.uint64(0)
    for doc in range(n):
        count, at = 0, starts[doc]
        while True:
            word, at = next_word(data, at, ends[doc], letters)
            if word == 0:
                break
            store[count] = word
            prefix[count + 1] = prefix[count] * _BASE + word
            count += 1
        words = store[:count]
        for i in range(count):
            for which in range(len(table.lengths)):
                length = table.lengths[which]
                if i + length > count:
                    break
                key = mix(prefix[i + length] - prefix[i] * table.powers[which] + np.uint64(length))
                if table.filter[key & mask] == 0:
                    continue
                place = np.searchsorted(table.keys, key)
                if place == len(table.keys) or table.keys[place] != key:
                    continue
                new = seen[place] != doc
                seen[place] = doc
                for t in range(table.first[place], table.first[place + 1]):
                    target = table.targets[t]
                    if target < 0:
                        stem = -1 - target
                        share, found = np.float32(1.0), table.stem_item[stem]
                        after = i + length
                        while stem >= 0:
                            begin, end, last = table.begin[stem], table.end[stem], after + table.gap[stem]
                            if not _follows(words, after, last, table.answers, begin, end):
                                break
                            stem = table.also[stem]
                        if stem >= 0:
                            continue
                    elif new:
                        if owner[target] != doc:
                            owner[target], hits[target] = doc, 0
                        hits[target] += 1
                        share, found = np.float32(hits[target] / table.total[target]), table.form_item[target]
                    else:
                        continue
                    if share > overlap[doc] or (share == overlap[doc] and found < item[doc]):
                        overlap[doc], item[doc] = share, found
    return overlap, item
