"""From band keys to clusters: buckets, candidate components, and the greedy choice of the copies that stay.

Every result depends on keys, shingle sets and the keep order of the documents alone, never on the order in which
they arrive. Trade-off: the greedy pass is sequential, and a component (documents joined by chains of shared
buckets) is judged at once, so its shingle sets are in memory together: 4 bytes for each word.
Cost: sorting, about 5 million keys a second; a comparison is one merge of two sorted sets, about 1 us for 500 words.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _root(parent, node):
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@njit(cache=True, nogil=True)
def _join(keys, order, band, first_bucket, buckets, parent):
    """Number the keys that two or more documents share; join their documents. Gives the next free number."""
    bucket, n = first_bucket, len(order)
    start = 0
    while start < n:
        stop = start + 1
        while stop < n and keys[order[stop]] == keys[order[start]]:
            stop += 1
        if stop - start > 1:
            anchor = _root(parent, order[start])
            for i in range(start, stop):
                buckets[order[i], band] = bucket
                other = _root(parent, order[i])
                low, high = min(anchor, other), max(anchor, other)
                parent[high] = low
                anchor = low
            bucket += 1
        start = stop
    return bucket


@njit(cache=True, nogil=True)
def _flatten(parent):
    for node in range(len(parent)):
        parent[node] = parent[parent[node]]


def candidates(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(buckets int64[n, bands], component int64[n]) of band keys uint64[n, bands].

    A bucket is the number of a key shared within its band, or -1; a component is the smallest row that chains of
    shared buckets lead to.
    """
    n, bands = keys.shape
    buckets = np.full((n, bands), -1, np.int64)
    parent = np.arange(n, dtype=np.int64)
    number = 0
    for band in range(bands):
        column = np.ascontiguousarray(keys[:, band])
        number = _join(column, np.argsort(column), band, number, buckets, parent)
    _flatten(parent)  # a parent is never greater than its child, so one ascending pass is enough
    return buckets, parent


@njit(cache=True, nogil=True)
def jaccard(hashes, first_a, size_a, first_b, size_b, least):
    """True Jaccard of two sorted sets, or -1 as soon as it is certain to be below `least`; 0 for two empty ones."""
    common, i, j = 0, first_a, first_b
    end_a, end_b = first_a + size_a, first_b + size_b
    allowed = (size_a + size_b) * (1.0 - 2.0 * least / (1.0 + least)) + 1e-6
    if abs(size_a - size_b) > allowed:
        return -1.0
    alone = 0
    while i < end_a and j < end_b:
        a, b = hashes[i], hashes[j]
        if a == b:
            common += 1
            i += 1
            j += 1
        else:
            alone += 1
            if alone > allowed:
                return -1.0
            if a < b:
                i += 1
            else:
                j += 1
    union = size_a + size_b - common
    return common / union if union else 0.0


@njit(cache=True, nogil=True)
def choose(buckets, num_buckets, hashes, first, size, threshold, leaders):
    """Which documents stay: (canonical int64[n], score float64[n]); documents come in keep order.

    A document stays (canonical = itself) unless one that stays, shares a bucket with it and has a true Jaccard of at
    least `threshold` came before; the most similar such document is its canonical, the earlier one on a tie.
    In each bucket only the first `leaders` documents that stay are compared with, which bounds a bucket of k
    strangers to k * leaders comparisons.
    """
    n, bands = buckets.shape
    canonical = np.arange(n)
    score = np.ones(n)
    head = np.full(num_buckets, -1, np.int64)
    held = np.zeros(num_buckets, np.int64)
    node_doc = np.empty(n * bands, np.int64)
    node_next = np.empty(n * bands, np.int64)
    compared = np.full(n, -1, np.int64)
    nodes = 0
    for doc in range(n):
        best, best_score = -1, -1.0
        for band in range(bands):
            if buckets[doc, band] < 0:
                continue
            node = head[buckets[doc, band]]
            while node >= 0:
                other = node_doc[node]
                node = node_next[node]
                if compared[other] == doc:
                    continue
                compared[other] = doc
                value = jaccard(hashes, first[doc], size[doc], first[other], size[other], threshold)
                if value >= threshold and (value > best_score or (value == best_score and other < best)):
                    best, best_score = other, value
        if best >= 0:
            canonical[doc], score[doc] = best, best_score
            continue
        for band in range(bands):
            bucket = buckets[doc, band]
            if bucket >= 0 and held[bucket] < leaders:
                node_doc[nodes], node_next[nodes] = doc, head[bucket]
                head[bucket] = nodes
                held[bucket] += 1
                nodes += 1
    return canonical, score
