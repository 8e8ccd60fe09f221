"""Words as datatrove counts them (spaCy's English tokens), at the speed of a compiled loop.

spaCy splits each white-space word without a look at its neighbours. So every word is looked up in a memo of words seen
before (`token_memo.py`), which holds their token boundaries; only new ones of an unusual form go through spaCy.

Two differences from spaCy remain. A word over `LONGEST` code points is cut there, as spaCy needs quadratic time for a
run of brackets or emoji. And spaCy lets a special case such as "[=" lose against another one that a space runs
through, as in "= [=](x"; here a space always separates. Of 10,184 crawled pages, 11 have a word that is cut and one has
such a pair; the tokens of all others are the same, and no decision changed.

Cost on one core: about 20 us for a document of 1.3 kB whose words have been seen, 30 us for each new unusual word.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pyarrow as pa
from numba import njit

from pipeline.stage import Batch
from stages.kernels import english_tokens, words
from stages.kernels.token_memo import TOKENS, Memo

LONGEST = 1000  # code points


@cache
def _memo() -> Memo:
    return Memo()


def forget() -> None:
    """Empty the memo."""
    _memo.cache_clear()


def of(batch: Batch) -> words.Spans:
    """Tokens of the batch's text, computed once for each batch."""
    return batch.memo("tokens", lambda: spans(batch["text"], words.of(batch)))


def spans(array: pa.Array, word: words.Spans | None = None) -> words.Spans:
    """Token spans of a string array, as `words.spans` gives words; `word` are its white-space words, where known.

    `bits` are `chars.ALPHA` and those of `english_tokens`. Raises StageError where spaCy is not installed.
    """
    _, data = words.buffers(array)
    word = words.spans(array) if word is None else word
    if len(word.lengths) and int(word.lengths.max()) > LONGEST:
        word = _cut(data, word)
    memo = _memo()
    before = np.zeros(len(word.starts) + 1, np.int32)  # tokens before each word
    parts = [[np.empty(0, kind) for kind in (np.int32, np.int32, np.int32, np.uint8)]]
    lo = 0
    with memo.lock:
        while lo < len(word.starts):
            ids = memo.numbers(data, word.starts, word.ends, lo)
            if len(ids) == 0:
                memo.clear()
                continue
            hi = lo + len(ids)
            counts = (memo.rows[ids, TOKENS].view(np.int64) >> 8) & 0xFFFFFF
            np.cumsum(counts, out=before[lo + 1 : hi + 1], dtype=np.int32)
            before[lo + 1 : hi + 1] += before[lo]
            total = int(before[hi] - before[lo])
            part = [np.empty(total, kind) for kind in (np.int32, np.int32, np.int32, np.uint8)]
            _expand(word.starts[lo:hi], word.ends[lo:hi], word.lengths[lo:hi], ids, memo.rows, memo.ends, memo.lengths,
                    memo.bits, *part)  # fmt: skip
            parts.append(part)
            lo = hi
    joined = parts[1] if len(parts) == 2 else [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    return words.Spans(before[word.doc_offsets], *joined)


def _cut(data: np.ndarray, word: words.Spans) -> words.Spans:
    """The words, those over LONGEST code points in pieces of that length."""
    pieces = -(-word.lengths.astype(np.int64) // LONGEST)
    total = int(pieces.sum())
    starts, ends, lengths = (np.empty(total, np.int32) for _ in range(3))
    _pieces(data, word.starts, word.ends, starts, ends, lengths)
    offsets = np.append(0, np.cumsum(pieces)).astype(np.int32)
    return words.Spans(offsets[word.doc_offsets], starts, ends, lengths, np.zeros(0, np.uint8))


@njit(cache=True, nogil=True)
def _pieces(data, starts, ends, piece_starts, piece_ends, lengths):
    at = 0
    for k in range(len(starts)):
        seen, start = 0, starts[k]
        for i in range(starts[k], ends[k]):
            if data[i] & 0xC0 != 0x80:
                if seen == LONGEST:
                    piece_starts[at], piece_ends[at], lengths[at] = start, i, seen
                    at, start, seen = at + 1, i, 0
                seen += 1
        piece_starts[at], piece_ends[at], lengths[at] = start, ends[k], seen
        at += 1


@njit(cache=True, nogil=True)
def _expand(starts, ends, lengths, ids, rows, token_ends, token_lengths, token_bits, out_starts, out_ends, out_lengths,
            out_bits):  # fmt: skip
    at = 0
    for k in range(len(ids)):
        packed = np.int64(rows[ids[k], TOKENS])
        first, count = packed >> 32, (packed >> 8) & 0xFFFFFF
        start = starts[k]
        if count == 1:
            out_starts[at], out_ends[at], out_lengths[at], out_bits[at] = start, ends[k], lengths[k], packed & 0xFF
            at += 1
            continue
        for t in range(first, first + count):
            out_starts[at], out_ends[at] = start, starts[k] + np.int32(token_ends[t])
            out_lengths[at], out_bits[at] = token_lengths[t], token_bits[t]
            start = out_ends[at]
            at += 1


def count_sentences(array: pa.Array) -> np.ndarray:
    """Sentences that spaCy's sentencizer finds in the lines (by `\\n`) of each text, each line by itself; int64."""
    offsets, data = words.buffers(array)
    token = spans(array)
    out = np.zeros(len(array), np.int64)
    _sentences(data, offsets, token.doc_offsets, token.starts, token.ends, token.bits, out)
    return out


@njit(cache=True, nogil=True)
def _sentences(data, offsets, token_docs, starts, ends, bits, out):
    """A sentence ends before the first token after a final mark that is neither punctuation nor another final mark.

    White space counts as such a token unless it is one space between two words.
    """
    for doc in range(len(token_docs) - 1):
        total, inside, seen = 0, False, False  # inside: the line has a token; seen: a final mark, and no word since
        gap = np.int64(offsets[doc])
        for t in range(token_docs[doc], token_docs[doc + 1] + 1):
            last = t == token_docs[doc + 1]
            stop = np.int64(offsets[doc + 1]) if last else np.int64(starts[t])
            while gap < stop:
                newline = gap
                while newline < stop and data[newline] != 10:
                    newline += 1
                if newline - gap > 1 or (newline > gap and (data[gap] != 32 or not inside)):
                    total += seen or not inside
                    inside, seen = True, False
                if newline < stop:
                    inside, seen = False, False
                gap = newline + 1
            if last:
                break
            gap = np.int64(ends[t])
            final = bits[t] & english_tokens.FINAL != 0
            if not inside or (seen and not final and bits[t] & english_tokens.NOT_PUNCTUATION):
                total += 1
                seen = False
            inside = True
            seen = seen or final
        out[doc] = total
