"""The line rules of C4 as one compiled pass: reads text buffers, writes the cleaned text into new ones.

A line is an item of `str.splitlines()`, stripped. It is written to the output first, without citations, tested there,
and taken back when a rule removes it: so no line is copied twice and nothing is allocated for a line.
Cost: about 9 ns for each byte of text on one core.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stages.kernels import chars, literal

PHRASES = (
    b"lorem ipsum", b"javascript", b"terms of use", b"privacy policy", b"cookie policy", b"uses cookies",
    b"use of cookies", b"use cookies",
)  # fmt: skip
LOREM, JAVASCRIPT = 1, 2  # bits of the first two phrases; the others are policy lines
CURLY = 1 << len(PHRASES)
MAX_WORD = 1000  # code points

_TEXT = np.frombuffer(b"".join(PHRASES), np.uint8)
_BOUNDS = np.cumsum([0, *map(len, PHRASES)]).astype(np.int64)
_STARTING = np.zeros(256, np.int64)  # phrases that start with a byte, in either case, as bits
for _k, _phrase in enumerate(PHRASES):
    _STARTING[_phrase[0]] |= 1 << _k
    _STARTING[_phrase[0] - 32] |= 1 << _k
_STARTING[ord("{")] = CURLY
_EDIT = np.frombuffer(b"[edit]", np.uint8)
_NEEDED = np.frombuffer(b"[citation needed]", np.uint8)

# columns of `counts`
LINES_REMOVED, CHARS_REMOVED, SENTENCES, CURLY_LINES, LOREM_LINES = range(5)


@njit(cache=True, nogil=True)
def _citation(data, i, end, pages, classes):
    r"""End of the match of `\[\d*\]|\[edit\]|\[citation needed\]` at i, or i where there is none."""
    after = i + 1
    while after < end:
        if data[after] == 93:
            return after + 1
        cp, following = chars.decode(data, after, end)
        if not chars.bits_of(cp, pages, classes) & chars.DECIMAL:
            break
        after = following
    if literal.at(data, i, end, _EDIT):
        return i + len(_EDIT)
    if literal.at(data, i, end, _NEEDED):
        return i + len(_NEEDED)
    return i


@njit(cache=True, nogil=True)
def _ends(data, start, end, apostrophe):
    """Does the line end in an end mark, and not in three dots?"""
    if start == end:
        return False
    last = data[end - 1]
    if last == 46:
        return not (end - start >= 3 and data[end - 2] == 46 and data[end - 3] == 46)
    return last == 63 or last == 33 or last == 34 or (apostrophe and last == 39)


@njit(cache=True, nogil=True)
def _count_words(data, start, end, pages, classes):
    """`(words, code points of the longest)` of `str.split()`."""
    words, longest, width = 0, 0, 0
    i = start
    while i < end:
        if data[i] < 0x80:
            here, i = classes[data[i]], i + 1
        else:
            cp, i = chars.decode(data, i, end)
            here = chars.bits_of(cp, pages, classes)
        if here & chars.NONSPACE:
            words += width == 0
            width += 1
            longest = max(longest, width)
        else:
            width = 0
    return words, longest


@njit(cache=True, nogil=True)
def _has_phrase(data, i, end, k):
    """Does phrase k start at i in the lower-cased text? U+212A (Kelvin) also lower-cases to "k"."""
    for p in range(_BOUNDS[k], _BOUNDS[k + 1]):
        if i >= end:
            return False
        byte = data[i]
        if byte == 0xE2 and i + 2 < end and data[i + 1] == 0x84 and data[i + 2] == 0xAA:
            byte = np.uint8(107)
            i += 2
        elif 65 <= byte <= 90:
            byte |= np.uint8(32)
        if byte != _TEXT[p]:
            return False
        i += 1
    return True


@njit(cache=True, nogil=True)
def _find_phrases(data, start, end):
    """The phrases that a line contains, as bits, and CURLY for "{"."""
    found = 0
    for i in range(start, end):
        possible = _STARTING[data[i]]
        if possible == 0 or possible & ~found == 0:
            continue
        if possible == CURLY:
            found |= CURLY
            continue
        for k in range(len(PHRASES)):
            if (possible >> k) & 1 and _has_phrase(data, i, end, k):
                found |= 1 << k
    return found


@njit(cache=True, nogil=True)
def _is_initial(data, start, i, pages, classes):
    """Is the character before i a letter with no word character before it?"""
    last = i
    for step in range(2):
        if last <= start:
            return step == 1
        last -= 1
        while last > start and (data[last] & 0xC0) == 0x80:
            last -= 1
        cp, _ = chars.decode(data, last, i)
        here = chars.bits_of(cp, pages, classes)
        if step == 0 and not here & chars.ALPHA:
            return False
        if step == 1 and here & chars.WORD:
            return False
    return True


@njit(cache=True, nogil=True)
def count_sentences(data, start, end, pages, classes):
    """Sentences of a line: a run of . ? ! ends one where white space or the end of the line follows.

    Closing quotes and brackets may stand between. A full stop after a single letter ("J. Smith") ends none. Text after
    the last end counts as a sentence, so a line with any word has at least one.
    """
    sentences, rest = 0, start
    i = start
    while i < end:
        byte = data[i]
        i += 1
        if byte != 46 and byte != 63 and byte != 33:
            continue
        initial = byte == 46 and _is_initial(data, start, i - 1, pages, classes)
        while i < end:  # the rest of the run, then closing marks
            cp, after = chars.decode(data, i, end)
            if not (cp == 46 or cp == 63 or cp == 33 or cp == 34 or cp == 39 or cp == 41 or cp == 93 or cp == 0x201D
                    or cp == 0x2019 or cp == 0xBB):  # fmt: skip
                break
            initial = False
            i = after
        if i < end:
            cp, _ = chars.decode(data, i, end)
            if initial or chars.bits_of(cp, pages, classes) & chars.NONSPACE:
                continue
        sentences += 1
        rest = i
    head, tail = chars.strip(data, rest, end, pages, classes)
    return sentences + (head < tail)


@njit(cache=True, nogil=True)
def clean(offsets, data, min_words, words_first, apostrophe, need_end_mark, pages, classes, out_offsets, out, counts,
          cut_offsets, cut_starts, cut_ends):  # fmt: skip
    """Write the kept lines of each document, joined by newlines, to `out`; `strip_documents` has to follow.

    `words_first` counts a line's words before citations are taken out, `apostrophe` accepts "'" as an end mark.
    `counts` is int32[5, docs]. Cuts are the removed non-blank lines, and the citations of kept lines, in bytes from
    the start of the document.
    """
    o = np.int64(0)
    cut = np.int64(0)
    for doc in range(len(offsets) - 1):
        i, end = np.int64(offsets[doc]), np.int64(offsets[doc + 1])
        origin, first = i, o
        while i < end:
            line = i
            boundary = end
            while i < end:  # to the end of the line
                if data[i] < 0x80:
                    here, after, cp = classes[data[i]], i + 1, np.int32(data[i])
                else:
                    cp, after = chars.decode(data, i, end)
                    here = chars.bits_of(cp, pages, classes)
                if here & chars.LINE:
                    boundary = i
                    i = after
                    if cp == 13 and i < end and data[i] == 10:
                        i += 1
                    break
                i = after
            start, stop = chars.strip(data, line, boundary, pages, classes)
            kept, mark, mark_cut = o, o, cut
            if o > first:
                out[o] = 10
                o += 1
                kept = o
            p, edited = start, False
            keep = not need_end_mark or _ends(data, start, stop, apostrophe)
            keep = keep or (start < stop and data[stop - 1] == 93)  # an end mark may stand before a citation
            if keep:
                words, longest = _count_words(data, start, stop, pages, classes)
                keep = longest <= MAX_WORD and words >= min_words
            while keep and p < stop:
                after = _citation(data, p, stop, pages, classes) if data[p] == 91 else p
                if after > p:
                    cut_starts[cut], cut_ends[cut] = p - origin, after - origin
                    cut += 1
                    p, edited = after, True
                else:
                    out[o] = data[p]
                    o, p = o + 1, p + 1
            if keep and edited:
                if not words_first:
                    words, _ = _count_words(out, kept, o, pages, classes)
                keep = words >= min_words and (not need_end_mark or _ends(out, kept, o, apostrophe))
            elif keep and need_end_mark:
                keep = _ends(out, kept, o, apostrophe)
            if keep:
                found = _find_phrases(out, kept, o)
                counts[LOREM_LINES, doc] += (found & LOREM) != 0
                keep = found & JAVASCRIPT == 0
                if keep:
                    counts[CURLY_LINES, doc] += (found & CURLY) != 0
                    keep = found & ~(LOREM | CURLY) == 0
            if keep:
                counts[SENTENCES, doc] += count_sentences(out, kept, o, pages, classes)
            else:
                o, cut = mark, mark_cut
                if start < stop:
                    counts[LINES_REMOVED, doc] += 1
                    cut_starts[cut], cut_ends[cut] = start - origin, stop - origin
                    cut += 1
        out_offsets[doc + 1] = o
        cut_offsets[doc + 1] = cut


@njit(cache=True, nogil=True)
def strip_documents(offsets, data, pages, classes, out_offsets, out, counts):
    """`str.strip()` of each document of `out`, in place, and the count of removed characters; returns the bytes left.

    Lines are stripped before citations are taken out of them, so white space can be left at the ends of a text.
    """
    o, first = np.int64(0), np.int64(0)
    for doc in range(len(offsets) - 1):
        head, tail = chars.strip(out, first, np.int64(out_offsets[doc + 1]), pages, classes)
        first = np.int64(out_offsets[doc + 1])
        if head > o:
            for k in range(tail - head):
                out[o + k] = out[head + k]
        before = chars.length(data, np.int64(offsets[doc]), np.int64(offsets[doc + 1]))
        counts[CHARS_REMOVED, doc] = before - chars.length(out, o, o + tail - head)
        o += tail - head
        out_offsets[doc + 1] = o
    return o
