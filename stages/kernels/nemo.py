r"""NeMo Curator's character, word, line and paragraph statistics, compiled over shared word and line spans.

Definitions are those of `stages/text/filters/heuristic/string.py`, `heuristic/repetition/repetition.py` and
`stages/text/utils/constants.py` of the project. Cost: about 6 ns for each byte of text on one core.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stages.kernels import chars, ngrams, phrases

# rows of `out`, in the order of the stage's columns
(WORDS, MEAN_WORD, LONGEST_WORD, NON_ALNUM, SYMBOL_WORDS, NUMBERS, URLS, WHITE_SPACE, PARENTHESES, BOILERPLATE,
 UNIQUE_LINES, UNIQUE_PARAGRAPHS, UNIQUE_LINE_CHARS, UNIQUE_PARAGRAPH_CHARS, UNENDED_LINES, ALPHA_WORDS, COMMON_WORDS,
 ELLIPSIS_LINES, BULLET_LINES) = range(19)  # fmt: skip

COMMON = ("the", "be", "to", "of", "and", "that", "have", "with")
BULLETS = "•‣⁃⁌⁍∙○●◘◦⦾⦿"
BOILERPLATE_PHRASES = (
    b"lorem ipsum",  # the first: one of it makes the ratio 1
    b"terms of use", b"privacy policy", b"cookie policy", b"uses cookies", b"privacy overview", b"use of cookies",
    b"use cookies", b"privacy & cookies policy", b"privacy and cookies policy",
    b"necessary cookies are absolutely essential for the website to function properly. this category only includes "
    b"cookies that ensures basic functionalities and security features of the website. these cookies do not store any "
    b"personal information.",
    b"any cookies that may not be particularly necessary for the website to function and is used specifically to "
    b"collect user personal data via analytics, ads, other embedded contents are termed as non-necessary cookies. it "
    b"is mandatory to procure user consent prior to running these cookies on your website.",
    b"if you continue to browse this site without changing your cookie settings, you agree to this use. acceptread "
    b"more",
)  # fmt: skip  # two more strings of the original contain "uses cookies" and so add nothing

_BOILERPLATE = phrases.phrases(BOILERPLATE_PHRASES)
_COMMON = np.array([int.from_bytes(word.encode(), "little") for word in COMMON], np.uint32)
_BULLETS = np.array([ord(mark) for mark in BULLETS], np.int32)
_READ_MORE = phrases.phrases([b"read more", b"read more.."])

_ALNUM, _NUMBER, _SPACE, _PAREN, _URL, _HEX = (np.uint8(1 << k) for k in range(6))
_KIND = np.zeros(256, np.uint8)
for _marks, _bit in (
    ("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789\n?!,.", _ALNUM),
    ("0123456789", _NUMBER), ("\t\n\r\b ", _SPACE), ("{}[]()", _PAREN), ("0123456789abcdefABCDEF", _HEX),
    ("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789$-_@.&+!*(),", _URL),
):  # fmt: skip
    for _mark in _marks.encode():
        _KIND[_mark] |= _bit


@njit(cache=True, nogil=True)
def _url_end(data, i, end):
    """End of the URL at i, or i; it has no "/" after its host, so what is counted is scheme and host."""
    if i + 7 > end or data[i + 1] != 116 or data[i + 2] != 116 or data[i + 3] != 112:
        return i
    p = i + 5 if data[i + 4] == 115 else i + 4
    if p + 3 > end or data[p] != 58 or data[p + 1] != 47 or data[p + 2] != 47:
        return i
    p += 3
    first = p
    while p < end:
        if _KIND[data[p]] & _URL:
            p += 1
        elif data[p] == 37 and p + 2 < end and _KIND[data[p + 1]] & _HEX and _KIND[data[p + 2]] & _HEX:
            p += 3
        else:
            break
    return p if p > first else i


@njit(cache=True, nogil=True)
def characters(offsets, data, out):
    """Shares of characters; rows stay as they are (NaN) for an empty text."""
    for doc in range(len(offsets) - 1):
        start, end = np.int64(offsets[doc]), np.int64(offsets[doc + 1])
        size, alnum, numbers, spaces, parens, urls, url_end = 0, 0, 0, 0, 0, 0, start
        for i in range(start, end):
            byte = data[i]
            size += (byte & 0xC0) != 0x80
            kind = _KIND[byte]
            alnum += (kind & _ALNUM) != 0
            numbers += (kind & _NUMBER) != 0
            spaces += (kind & _SPACE) != 0
            parens += (kind & _PAREN) != 0
            if byte == 104 and i >= url_end:
                url_end = _url_end(data, i, end)
                urls += url_end - i
            elif byte == 0xE2 and i + 2 < end and data[i + 1] == 0x9F and (data[i + 2] | 1) == 0xA9:
                parens += 1  # U+27E8 and U+27E9
        if size:
            out[NON_ALNUM, doc], out[NUMBERS, doc] = (size - alnum) / size, numbers / size
            out[WHITE_SPACE, doc], out[PARENTHESES, doc], out[URLS, doc] = spaces / size, parens / size, urls / size


@njit(cache=True, nogil=True)
def _ends_in_mark(data, start, end):
    """Does the span end in ... [...] (...) … […] or -»?"""
    size = end - start
    if size >= 3 and data[end - 3] == 0xE2 and data[end - 2] == 0x80 and data[end - 1] == 0xA6:
        return True
    if size >= 3 and data[end - 1] == 0xBB and data[end - 2] == 0xC2 and data[end - 3] == 45:
        return True
    if size >= 3 and data[end - 1] == 46 and data[end - 2] == 46 and data[end - 3] == 46:
        return True
    if size < 5 or not (data[end - 1] == 93 or data[end - 1] == 41):
        return False
    opening = 91 if data[end - 1] == 93 else 40
    if data[end - 5] == opening and data[end - 4] == 46 and data[end - 3] == 46 and data[end - 2] == 46:
        return True
    return data[end - 5] == 91 == opening and data[end - 4] == 0xE2 and data[end - 3] == 0x80 and data[end - 2] == 0xA6


@njit(cache=True, nogil=True)
def _is_symbol(data, start, end, length):
    """Is the word an ellipsis mark, or are its runs of "#" more than half as many as its characters?"""
    runs, first = 0, data[start]
    for i in range(start, end):
        runs += data[i] == 35 and (i == start or data[i - 1] != 35)
    if 2 * runs > length:
        return True
    if first == 46 or first == 0xE2:
        return end - start == 3 and _ends_in_mark(data, start, end)
    if first == 91 or first == 40:
        return end - start == 5 and _ends_in_mark(data, start, end)
    return first == 45 and end - start == 3 and data[start + 1] == 0xC2 and data[start + 2] == 0xBB


@njit(cache=True, nogil=True)
def words(data, doc_offsets, starts, ends, lengths, bits, out):
    """Word statistics; ratios stay NaN for a text without words."""
    for doc in range(len(doc_offsets) - 1):
        lo, hi = doc_offsets[doc], doc_offsets[doc + 1]
        out[WORDS, doc], out[COMMON_WORDS, doc] = hi - lo, 0
        if lo == hi:
            continue
        size, longest, symbols, alphabetic, common = 0, 0, 0, 0, 0
        for k in range(lo, hi):
            size += lengths[k]
            longest = max(longest, lengths[k])
            alphabetic += (bits[k] & chars.ALPHA) != 0
            width = ends[k] - starts[k]
            first = data[starts[k]]
            if first < 97 or first > 122:
                symbols += _is_symbol(data, np.int64(starts[k]), np.int64(ends[k]), lengths[k])
            elif 2 <= width <= 4:
                value = np.uint32(0)
                for b in range(width):
                    value |= np.uint32(data[starts[k] + b]) << np.uint32(8 * b)
                for s in range(len(_COMMON)):
                    common += value == _COMMON[s]
        out[MEAN_WORD, doc], out[LONGEST_WORD, doc], out[COMMON_WORDS, doc] = size / (hi - lo), longest, common
        out[SYMBOL_WORDS, doc], out[ALPHA_WORDS, doc] = symbols / (hi - lo), alphabetic / (hi - lo)


@njit(cache=True, nogil=True)
def _ends_in_read_more(data, start, end):
    """Does the span end in "read more" or "read more.." in any case?"""
    for k, width in ((0, 9), (1, 11)):
        if end - start >= width and phrases.match(data, end - width, end, _READ_MORE, k, phrases.LOWER) == end:
            return True
    return False


@njit(cache=True, nogil=True)
def _unique(data, starts, ends, count, seed, table, ids, first, counts, out, row, char_row, doc):
    """Shares that are left of `count` spans and of their characters when repetitions are removed."""
    copies, copied, characters = 0, 0, 0
    if count > 1:
        copies, copied = ngrams.duplicates(data, starts, ends, count, False, seed, table, ids, first, counts)
    for k in range(count):
        characters += chars.length(data, starts[k], ends[k])
    if count:
        out[row, doc] = (count - copies) / count
    if characters:
        out[char_row, doc] = (characters - copied) / characters


@njit(cache=True, nogil=True)
def lines(offsets, data, doc_offsets, starts, ends, seed, pages, classes, out):
    """Line and paragraph statistics; NaN where there is no line (or no character) to speak of."""
    longest = 1
    for doc in range(len(offsets) - 1):
        longest = max(longest, doc_offsets[doc + 1] - doc_offsets[doc])
    part_starts, part_ends = np.empty(longest, np.int32), np.empty(longest, np.int32)
    ids, first, counts = np.empty(longest, np.int32), np.empty(longest, np.int32), np.empty(longest, np.int32)
    table = np.empty(ngrams.capacity(longest), np.int32)
    for doc in range(len(offsets) - 1):
        full, unended, ellipses, bullets = 0, 0, 0, 0
        for k in range(doc_offsets[doc], doc_offsets[doc + 1]):
            start, end = chars.strip(data, np.int64(starts[k]), np.int64(ends[k]), pages, classes)
            if start == end:
                continue
            part_starts[full], part_ends[full] = starts[k], ends[k]
            full += 1
            last = data[end - 1]
            unended += not (last == 46 or last == 63 or last == 33 or last == 34 or last == 39)
            ellipses += _ends_in_mark(data, start, end) or _ends_in_read_more(data, start, end)
            if data[start] == 0xE2:
                cp, _ = chars.decode(data, start, end)
                for b in range(len(_BULLETS)):
                    bullets += cp == _BULLETS[b]
        _unique(data, part_starts, part_ends, full, seed, table, ids, first, counts, out, UNIQUE_LINES,
                UNIQUE_LINE_CHARS, doc)  # fmt: skip
        if full:
            out[UNENDED_LINES, doc], out[ELLIPSIS_LINES, doc] = unended / full, ellipses / full
            out[BULLET_LINES, doc] = bullets / full
        paragraphs, boilerplate, lorem = 0, 0, False
        start, end = np.int64(offsets[doc]), np.int64(offsets[doc + 1])
        i = start
        while i <= end:  # the items of split("\n\n")
            if i == end or (data[i] == 10 and i + 1 < end and data[i + 1] == 10):
                part_starts[paragraphs], part_ends[paragraphs] = start, i
                paragraphs += 1
                found = phrases.find(data, start, i, _BOILERPLATE, phrases.LOWER)
                lorem = lorem or (found & np.uint32(1)) != 0
                boilerplate += found != 0
                start = i = i + 2
                continue
            i += 1
        if full:
            out[BOILERPLATE, doc] = 1 if lorem else boilerplate / paragraphs
            _unique(data, part_starts, part_ends, paragraphs, seed, table, ids, first, counts, out, UNIQUE_PARAGRAPHS,
                    UNIQUE_PARAGRAPH_CHARS, doc)  # fmt: skip
