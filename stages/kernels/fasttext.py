"""fastText's text features and label scores, straight over Arrow string buffers and a mapped model file.

The definitions are those of facebookresearch/fastText 0.9.2: `Dictionary::readWord`, `getLine`, `computeSubwords` and
`addWordNgrams`; `Model::computeHidden`; `SoftmaxLoss`, `HierarchicalSoftmaxLoss::dfs` and `BinaryLogisticLoss`. Sums
are in its order and in its float32, so scores agree with it to about 1e-6. What differs: a newline is white space, and
the word `</s>` and words that begin with `__label__` are not read, where fastText stops or takes a label.

Why it is faster: n-grams are hashed as they grow, in place, where fastText copies each into a string and hashes it from
its start; and the sum of a word's n-grams is remembered, so that a word that comes again costs one row.
Cost: bounded by the hashing of words, and by the cache misses of one row for each new n-gram.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

FNV_START, FNV_PRIME = np.uint32(2166136261), np.uint32(16777619)
NGRAM_STEP = np.uint64(116049371)
SOFTMAX, HIERARCHICAL, BINARY = 0, 1, 2
_LABEL = np.frombuffer(b"__label__", np.uint8)


@njit(cache=True, nogil=True, inline="always")
def _step(h, byte):
    """FNV-1a over bytes that fastText reads as signed."""
    return np.uint32((h ^ np.uint32(np.int32(np.int8(byte)))) * FNV_PRIME)


@njit(cache=True, nogil=True)
def fnv(data, start, end):
    h = FNV_START
    for i in range(start, end):
        h = _step(h, data[i])
    return h


@njit(cache=True, nogil=True)
def find(data, start, end, h, names, starts, ends, hashes, table):
    """Number of the dictionary entry with these bytes, or -1."""
    mask = np.int64(len(table) - 1)
    slot = np.int64(h) & mask
    size = end - start
    while table[slot] >= 0:
        k = np.int64(table[slot])
        if hashes[k] == h and ends[k] - starts[k] == size:
            at = starts[k]
            b = 0
            while b < size and names[at + b] == data[start + b]:
                b += 1
            if b == size:
                return k
        slot = (slot + 1) & mask
    return np.int64(-1)


@njit(cache=True, nogil=True)
def word_table(names, starts, ends, hashes, table):
    """Fill an open-addressing table (a power of two, -1 where free); of equal words the last one counts."""
    mask = np.int64(len(table) - 1)
    for k in range(len(starts)):
        hashes[k] = fnv(names, starts[k], ends[k])
        if find(names, starts[k], ends[k], hashes[k], names, starts, ends, hashes, table) >= 0:
            slot = np.int64(hashes[k]) & mask
            while True:
                other = np.int64(table[slot])
                if hashes[other] == hashes[k] and ends[other] - starts[other] == ends[k] - starts[k]:
                    b = 0
                    while b < ends[k] - starts[k] and names[starts[other] + b] == names[starts[k] + b]:
                        b += 1
                    if b == ends[k] - starts[k]:
                        break
                slot = (slot + 1) & mask
            table[slot] = k
            continue
        slot = np.int64(hashes[k]) & mask
        while table[slot] >= 0:
            slot = (slot + 1) & mask
        table[slot] = k


@njit(cache=True, nogil=True, inline="always")
def _ones(x):
    """Number of bits set in a uint64."""
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def bucket_ranks(kept, bits, ranks):
    """Bitmap of the buckets that a pruned model keeps (sorted int64), and how many are kept before each 64 of them."""
    for bucket in kept:
        bits[bucket >> 6] |= np.uint64(1) << np.uint64(bucket & 63)
    total = 0
    for k in range(len(bits)):
        ranks[k] = total
        total += _ones(bits[k])


@njit(cache=True, nogil=True, inline="always")
def _row_of(bucket, words, pruned, bits, ranks):
    """Input row of a bucket, or -1 for one that the model has no longer; kept buckets have theirs in order."""
    if not pruned:
        return words + bucket
    block, bit = bits[bucket >> 6], np.uint64(1) << np.uint64(bucket & 63)
    if block & bit == 0:
        return np.int64(-1)
    return words + np.int64(ranks[bucket >> 6]) + _ones(block & (bit - np.uint64(1)))


@njit(cache=True, nogil=True, inline="always")
def _add(hidden, rows, row):
    for d in range(len(hidden)):
        hidden[d] += rows[row, d]


@njit(cache=True, nogil=True, inline="always")
def _modulo(h, bucket, inverse):
    """h % bucket of a uint32 by a multiplication, which costs a fifth of the division."""
    rest = np.int64(h) - np.int64(np.float64(h) * inverse) * bucket
    if rest < 0:
        return rest + bucket
    return rest - bucket if rest >= bucket else rest


@njit(cache=True, nogil=True)
def _subwords(buffer, size, minn, maxn, bucket, words, pruned, bits, ranks, rows, hidden):
    """Add the rows of all character n-grams of `buffer[:size]`, which is `<word>`; returns how many."""
    count = 0
    inverse = 1.0 / bucket
    for i in range(size):
        if (buffer[i] & 0xC0) == 0x80:
            continue
        h, j = FNV_START, i
        for n in range(1, maxn + 1):
            if j >= size:
                break
            h = _step(h, buffer[j])
            j += 1
            while j < size and (buffer[j] & 0xC0) == 0x80:
                h = _step(h, buffer[j])
                j += 1
            if n >= minn and not (n == 1 and (i == 0 or j == size)):
                row = _row_of(_modulo(h, bucket, inverse), words, pruned, bits, ranks)
                if row >= 0:
                    _add(hidden, rows, row)
                    count += 1
    return count


@njit(cache=True, nogil=True)
def hidden_vectors(offsets, data, max_bytes, names, starts, ends, hashes, table, words, minn, maxn, ngrams, bucket,
                   pruned, bits, ranks, rows, end_id, end_hash, cached_keys,
                   cached_rows, cached_sum, hidden, tokens):  # fmt: skip
    """Mean input row of each text's features into `hidden` (float32[n, dim]) and its number of words into `tokens`.

    `cached_keys` (uint64[slots, 2], the bytes of a word), `cached_rows` and `cached_sum` remember the words of earlier
    calls. They change the cost alone: a word's n-grams are always summed apart, and then added.
    """
    longest = 0
    for doc in range(len(tokens)):
        longest = max(longest, min(np.int64(offsets[doc + 1]) - np.int64(offsets[doc]), max_bytes))
    buffer = np.empty(longest + 2, np.uint8)
    seen = np.empty(longest // 2 + 3, np.int32)
    slot_mask = np.int64(len(cached_keys) - 1)
    spare = np.zeros(hidden.shape[1], np.float32)
    for doc in range(len(tokens)):
        i, end = np.int64(offsets[doc]), np.int64(offsets[doc + 1])
        if end - i > max_bytes:
            end = i + max_bytes
            while end > i and (data[end] & 0xC0) == 0x80:
                end -= 1  # never half a character
        vector = hidden[doc]
        count, number = 0, 0
        while i < end:
            byte = data[i]
            if byte == 32 or (9 <= byte <= 13) or byte == 0:
                i += 1
                continue
            start, h = i, FNV_START
            while i < end and not (data[i] == 32 or (9 <= data[i] <= 13) or data[i] == 0):
                h = _step(h, data[i])
                i += 1
            if i - start >= 9 and data[start] == 95:
                b = 0
                while b < 9 and data[start + b] == _LABEL[b]:
                    b += 1
                if b == 9:
                    continue
            if i - start == 4 and h == end_hash:
                continue
            seen[number] = np.int32(h)
            number += 1
            size = i - start
            if maxn == 0:
                k = find(data, start, i, h, names, starts, ends, hashes, table)
                if 0 <= k < words:
                    _add(vector, rows, k)
                    count += 1
                continue
            slot = np.int64(h ^ (h >> np.uint32(15))) & slot_mask
            low, high = np.uint64(0), np.uint64(0)
            short = size <= 16
            if short:
                for b in range(8 if size > 8 else size):
                    low |= np.uint64(data[start + b]) << np.uint64(8 * b)
                for b in range(8, size):
                    high |= np.uint64(data[start + b]) << np.uint64(8 * b - 64)
                if cached_keys[slot, 0] == low and cached_keys[slot, 1] == high:
                    _add(vector, cached_sum, slot)
                    count += cached_rows[slot]
                    continue
            total = cached_sum[slot] if short else spare
            total[:] = 0
            found = 0
            k = find(data, start, i, h, names, starts, ends, hashes, table)
            if 0 <= k < words:
                _add(total, rows, k)
                found = 1
            buffer[0] = 60
            for b in range(size):
                buffer[b + 1] = data[start + b]
            buffer[size + 1] = 62
            found += _subwords(buffer, size + 2, minn, maxn, bucket, words, pruned, bits, ranks, rows, total)
            if short:
                cached_keys[slot, 0], cached_keys[slot, 1], cached_rows[slot] = low, high, found
            for d in range(len(vector)):
                vector[d] += total[d]
            count += found
        tokens[doc] = number
        if 0 <= end_id < words:
            _add(vector, rows, end_id)
            count += 1
        seen[number] = np.int32(end_hash)
        for first in range(number + 1):
            wide = np.uint64(np.int64(seen[first]))
            for other in range(first + 1, min(number + 1, first + ngrams)):
                wide = wide * NGRAM_STEP + np.uint64(np.int64(seen[other]))
                row = _row_of(np.int64(wide % np.uint64(bucket)), words, pruned, bits, ranks)
                if row >= 0:
                    _add(vector, rows, row)
                    count += 1
        if count:
            scale = np.float32(1.0 / count)
            for d in range(len(vector)):
                vector[d] *= scale


@njit(cache=True, nogil=True)
def _dot(hidden, rows, row):
    total = np.float32(0.0)
    for d in range(len(hidden)):
        total += rows[row, d] * hidden[d]
    return total


@njit(cache=True, nogil=True)
def _log(x):
    return np.float32(math.log(np.float64(x) + 1e-5))


@njit(cache=True, nogil=True)
def label_scores(hidden, outputs, loss, left, right, scores):
    """Probability of each label into `scores` (float32[n, labels]), with fastText's own rounding up by 1e-5."""
    labels = scores.shape[1]
    log_of = np.empty(2 * labels, np.float32)
    for doc in range(len(hidden)):
        vector, out = hidden[doc], scores[doc]
        if loss == HIERARCHICAL:
            log_of[2 * labels - 2] = 0.0
            for node in range(2 * labels - 2, labels - 1, -1):
                f = np.float32(1.0 / (1.0 + math.exp(-_dot(vector, outputs, node - labels))))
                log_of[left[node]] = log_of[node] + _log(np.float32(1.0) - f)
                log_of[right[node]] = log_of[node] + _log(f)
            for k in range(labels):
                out[k] = min(math.exp(log_of[k]), 1.0)
            continue
        top = np.float32(-np.inf)
        for k in range(labels):
            out[k] = _dot(vector, outputs, k)
            top = max(top, out[k])
        total = np.float32(0.0)
        for k in range(labels):
            if loss == SOFTMAX:
                out[k] = math.exp(out[k] - top)
                total += out[k]
            elif out[k] < -8:  # a table of 512 steps, as fastText's
                out[k] = 0.0
            elif out[k] > 8:
                out[k] = 1.0
            else:
                x = int((out[k] + 8) * 512 / 8 / 2) * 2 * 8 / 512 - 8
                out[k] = 1.0 / (1.0 + math.exp(-x))
        for k in range(labels):
            out[k] = min((out[k] / total if loss == SOFTMAX else out[k]) + 1e-5, 1.0)


@njit(cache=True, nogil=True)
def best_labels(scores, chosen):
    """The numbers of the best labels of each text into `chosen` (int32[n, k]), best first; ties in label order."""
    for doc in range(len(scores)):
        count = 0
        for k in range(scores.shape[1]):
            at = count
            while at > 0 and scores[doc, chosen[doc, at - 1]] < scores[doc, k]:
                at -= 1
            if at < chosen.shape[1]:
                last = min(count, chosen.shape[1] - 1)
                for j in range(last, at, -1):
                    chosen[doc, j] = chosen[doc, j - 1]
                chosen[doc, at] = k
                count = min(count + 1, chosen.shape[1])
