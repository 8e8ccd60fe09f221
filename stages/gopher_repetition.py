"""Gopher repetition statistics (Rae et al. 2021, table A1, "Repetition removal").

The same thresholds are used everywhere, on statistics that differ by a factor of three between implementations:

================  ============================  ==============================  ================================
statistic         `paper` and `dclm`            `dolma` (tagger `gopher_v1`)    `datatrove` (0.10)
================  ============================  ==============================  ================================
words             `paper`: str.split; `dclm`:   str.split                       spaCy's English tokens
                  Unicode words (UAX #29) that
                  start with a letter or digit
lines             split("\n"), stripped,        split("\n"), blank lines too    re.split(r"\n+", text)
                  blank ones left out
paragraphs        split("\n\n"), likewise       none (null)                     re.split(r"\n{2,}", text.strip())
duplicates        every copy                    every copy                      second and later copies
their characters  / characters of the segments  / characters of the words       / len(text)
top n-gram        most frequent that repeats    most frequent (first of equal   most frequent (first of equal
                  (longest of equal ones),      ones), even a single one,       ones), even a single one, joined
                  / characters of the words     / characters of the words       by spaces, / len(text)
duplicate n-gram  words that lie in a repeated  sum of repeated n-gram lengths  a repeat adds its characters and
                  n-gram, each counted once,    / sum of all n-gram lengths     is jumped over, / len(text); two
                  / characters of the words                                     are equal if equal without spaces
================  ============================  ==============================  ================================

`paper` follows "characters contained within duplicate n-grams, taking care not to count characters in overlapping
n-grams more than once", as DCLM does. A ratio without a denominator is null, and so is the top n-gram of `dolma` and
`datatrove` in a text of fewer than n words. Cost: about 17 us for a document of 1.3 kB, 25 us for `datatrove`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
from numba import njit
from pydantic import Field

from pipeline.stage import Batch, Params, Rule, doc_stage
from stages.kernels import chars, english_tokens, ngrams, tokens, unicode_words, words

SEGMENTS = {"dup_line_frac": 0.30, "dup_para_frac": 0.30, "dup_line_char_frac": 0.20, "dup_para_char_frac": 0.20}
TOP = {"top_2gram": 0.20, "top_3gram": 0.18, "top_4gram": 0.16}
DUP = {f"dup_{n}gram": limit for n, limit in enumerate((0.15, 0.14, 0.13, 0.12, 0.11, 0.10), start=5)}
THRESHOLDS = SEGMENTS | TOP | DUP
ADDS = pa.schema([(name, pa.float64()) for name in THRESHOLDS])

VARIANTS = ("paper", "dolma", "datatrove", "dclm")
PAPER, DOLMA, DATATROVE = range(3)  # `dclm` is `paper` on other words


class GopherRepetition(Params):
    variant: Literal["paper", "datatrove", "dolma", "dclm"] = Field("paper", description="definition of the statistics")


def rules(params: GopherRepetition) -> list[Rule]:
    """Table A1, drop above.

    dolma's configs v1.5 and v1.6 differ in two points: .30 for characters in duplicate lines, and their three top
    n-gram rules name a column that the tagger never wrote, so they never fired; here they do.
    """
    limits = dict(THRESHOLDS)
    if params.variant == "dolma":
        limits |= {"dup_line_char_frac": 0.30}
        del limits["dup_para_frac"], limits["dup_para_char_frac"]
    return [Rule.parse(f"{name} <= {limit}") for name, limit in limits.items()]


def _identity(params: GopherRepetition) -> str:
    return {"datatrove": english_tokens.version, "dclm": unicode_words.version}.get(params.variant, str)()


@doc_stage("gopher_repetition", GopherRepetition, reads=("text",), adds=ADDS, rules=rules, identity=_identity)
def gopher_repetition(batch: Batch, params: GopherRepetition, tools) -> dict[str, pa.Array]:
    """Gopher repetition: duplicate lines and paragraphs, the top 2- to 4-gram, duplicate 5- to 10-grams."""
    text = batch["text"]
    offsets, data = words.buffers(text)
    word = {"datatrove": tokens, "dclm": unicode_words}.get(params.variant, words).of(batch)
    line = words.lines_of(batch)
    out = np.full((len(ADDS), len(text)), np.nan)
    variant = PAPER if params.variant == "dclm" else VARIANTS.index(params.variant)
    _segments(offsets, data, word.doc_offsets, word.lengths, line.doc_offsets, line.starts, line.ends, variant,
              ngrams.SEED, *chars.tables(), out)  # fmt: skip
    _repeated_ngrams(offsets, data, word.doc_offsets, word.starts, word.ends, word.lengths, variant, ngrams.SEED, out)
    if variant == DATATROVE:
        _later_ngrams(offsets, data, word.doc_offsets, word.starts, word.ends, word.lengths, ngrams.SEED, out)
    return {name: words.column(out[k], text) for k, name in enumerate(THRESHOLDS)}


@njit(cache=True, nogil=True)
def _lines(data, starts, ends, lo, hi, variant, pages, classes, seg_starts, seg_ends):
    """The lines `lo:hi` as the variant sees them; returns how many."""
    count = 0
    for k in range(lo, hi):
        start, end = np.int64(starts[k]), np.int64(ends[k])
        if variant == PAPER:
            start, end = chars.strip(data, start, end, pages, classes)
        if start < end or variant == DOLMA or (variant == DATATROVE and (k == lo or k == hi - 1)):
            seg_starts[count], seg_ends[count] = start, end
            count += 1
    return count


@njit(cache=True, nogil=True)
def _paragraphs(data, start, end, variant, pages, classes, seg_starts, seg_ends):
    """Runs between empty lines of the stripped text; `paper` strips each and leaves blank ones out."""
    start, end = chars.strip(data, start, end, pages, classes)
    count = 0
    i = start
    while i <= end:
        if i == end or (data[i] == 10 and data[i + 1] == 10):  # a stripped text does not end in a newline
            a, b = start, i
            if variant == PAPER:
                a, b = chars.strip(data, start, i, pages, classes)
            if variant != PAPER or a < b:
                seg_starts[count], seg_ends[count] = a, b
                count += 1
            while i < end and data[i] == 10:
                i += 1
            if i == end:
                break
            start = i
        i += 1
    return count


@njit(cache=True, nogil=True)
def _segments(offsets, data, word_docs, lengths, line_docs, starts, ends, variant, seed, pages, classes, out):
    longest = 1
    for doc in range(len(offsets) - 1):
        longest = max(longest, line_docs[doc + 1] - line_docs[doc])
    seg_starts, seg_ends = np.empty(longest, np.int32), np.empty(longest, np.int32)
    ids, first, counts = np.empty(longest, np.int32), np.empty(longest, np.int32), np.empty(longest, np.int32)
    table = np.empty(ngrams.capacity(longest), np.int32)
    for doc in range(len(offsets) - 1):
        start, end = np.int64(offsets[doc]), np.int64(offsets[doc + 1])
        if start == end:
            continue
        characters = 0
        if variant == DATATROVE:
            characters = chars.length(data, start, end)
        elif variant == DOLMA:
            for k in range(word_docs[doc], word_docs[doc + 1]):
                characters += lengths[k]
        for row in range(2 if variant != DOLMA else 1):
            if row == 0:
                total = _lines(data, starts, ends, line_docs[doc], line_docs[doc + 1], variant, pages, classes,
                               seg_starts, seg_ends)  # fmt: skip
            else:
                total = _paragraphs(data, start, end, variant, pages, classes, seg_starts, seg_ends)
            if variant == PAPER:
                characters = 0
                for k in range(total):
                    characters += chars.length(data, seg_starts[k], seg_ends[k])
            copies, copied = ngrams.duplicates(data, seg_starts, seg_ends, total, variant != DATATROVE, seed, table,
                                               ids, first, counts)  # fmt: skip
            if total:
                out[row, doc] = copies / total
            if characters:
                out[row + 2, doc] = copied / characters


@njit(cache=True, nogil=True)
def _top(n, positions, ids, counts, prefix, variant):
    """Characters of all copies of the most frequent n-gram; `prefix[i]` counts the characters before word i."""
    best, best_length, best_id = 1, 0, -1
    for i in range(positions):
        if ids[i] < 0 or counts[ids[i]] < max(best, 2):
            continue
        size, often = prefix[i + n] - prefix[i], counts[ids[i]]
        if often > best or (variant == PAPER and size > best_length):
            best, best_length, best_id = often, size, ids[i]
    if best_id < 0:
        if variant == PAPER:
            return 0
        best_length = prefix[n] - prefix[0]
    return best * (best_length + (n - 1 if variant == DATATROVE else 0))


@njit(cache=True, nogil=True)
def _mass(n, positions, repeated, prefix, variant):
    """`(numerator, denominator)` of the duplicate n-gram fraction of `paper` and `dolma`."""
    inside, covered, everything = 0, 0, 0
    for i in range(positions):
        size = prefix[i + n] - prefix[i]
        everything += size
        if repeated[i]:
            inside += size if variant == DOLMA else prefix[i + n] - prefix[max(covered, i)]
            covered = i + n
    return inside, everything if variant == DOLMA else prefix[positions + n - 1]


@njit(cache=True, nogil=True)
def _repeated_ngrams(offsets, data, word_docs, starts, ends, lengths, variant, seed, out):
    longest = 1
    for doc in range(len(word_docs) - 1):
        longest = max(longest, word_docs[doc + 1] - word_docs[doc])
    size = ngrams.capacity(longest)
    table, keys = np.empty(size, np.int32), np.empty(size, np.uint64)
    numbers, ids = np.empty(longest, np.int32), np.empty(longest, np.int32)
    first, counts = np.empty(longest, np.int32), np.empty(longest, np.int32)
    repeated, prefix = np.empty(longest, np.bool_), np.empty(longest + 1, np.int64)
    for doc in range(len(word_docs) - 1):
        lo, hi = word_docs[doc], word_docs[doc + 1]
        total = hi - lo
        prefix[0] = 0
        for k in range(total):
            prefix[k + 1] = prefix[k] + lengths[lo + k]
        characters = prefix[total]
        if variant == DATATROVE:
            characters = chars.length(data, np.int64(offsets[doc]), np.int64(offsets[doc + 1]))
        ngrams.intern(data, starts, ends, lo, hi, seed, table, numbers, first, counts)
        for i in range(total):
            ids[i] = numbers[i]
            repeated[i] = counts[numbers[i]] > 1
        if characters == 0:
            continue
        if variant == PAPER:
            out[4:, doc] = 0  # no n-gram, or none that repeats
        for n in range(2, min(total, 4 if variant == DATATROVE else 10) + 1):
            positions = total - n + 1
            ngrams.extend(n, total, numbers, ids, repeated, seed, keys, table, counts)
            if n <= 4:
                out[n + 2, doc] = _top(n, positions, ids, counts, prefix, variant) / characters
            else:
                inside, everything = _mass(n, positions, repeated, prefix, variant)
                out[n + 2, doc] = inside / everything


@njit(cache=True, nogil=True)
def _later_ngrams(offsets, data, word_docs, starts, ends, lengths, seed, out):
    longest = 1
    for doc in range(len(word_docs) - 1):
        longest = max(longest, word_docs[doc + 1] - word_docs[doc])
    values, powers = np.empty(longest, np.uint64), np.empty(longest, np.uint64)
    joined, table = np.empty(longest, np.uint64), np.empty(ngrams.capacity(longest), np.int32)
    for doc in range(len(word_docs) - 1):
        lo, hi = word_docs[doc], word_docs[doc + 1]
        total = hi - lo
        characters = chars.length(data, np.int64(offsets[doc]), np.int64(offsets[doc + 1]))
        if characters == 0:
            continue
        out[7:, doc] = 0
        ngrams.word_polynomials(data, starts, ends, lo, hi, seed, values, powers)
        joined[:total] = values[:total]
        for n in range(2, min(total, 10) + 1):
            for i in range(total - n + 1):
                joined[i] = joined[i] * powers[i + n - 1] + values[i + n - 1]
            if n >= 5:
                copied = ngrams.later_copies(data, starts, ends, lengths, lo, hi, n, joined, seed, table)
                out[n + 2, doc] = copied / characters
