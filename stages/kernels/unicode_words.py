"""Unicode words (UAX #29, default word boundaries) of a batch of texts, compiled: what DCLM counts n-grams over.

DCLM takes the words of the package uniseg that start with a letter or a digit (`str.isalnum`). The classes of the
characters come from that package (Unicode's Word_Break property), the rules are restated here as one pass with the last
two characters in hand. Flags (WB15, WB16) are left out: they neither start nor join a word.
Cost on one core: about 5 ns for each byte of text, 1 s for the table at the first use.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from importlib import metadata

import numpy as np
import pyarrow as pa
from numba import njit

from pipeline.stage import Batch
from stages.kernels import chars, words

NAMES = ("Other", "LF", "CR", "Newline", "Extend", "Format", "ZWJ", "ALetter", "Hebrew_Letter", "Numeric", "Katakana",
         "ExtendNumLet", "MidLetter", "MidNum", "MidNumLet", "Single_Quote", "Double_Quote", "WSegSpace",
         "Regional_Indicator")  # fmt: skip
(OTHER, LF, CR, NEWLINE, EXTEND, FORMAT, ZWJ, LETTER, HEBREW, NUMERIC, KATAKANA, CONNECTOR, MID_LETTER, MID_NUM,
 MID_BOTH, SINGLE, DOUBLE, SPACE) = range(18)  # fmt: skip
PICTOGRAPH = np.uint8(64)  # added to the class: Extended_Pictographic


@cache
def version() -> str:
    """Version of the installed uniseg: its tables are part of what a node's result depends on."""
    return f"uniseg-{metadata.version('uniseg')}"


@cache
def table() -> np.ndarray:
    """uint8[0x110000]: the Word_Break class of each code point, as a number in NAMES, and PICTOGRAPH."""
    from uniseg.emoji import extended_pictographic
    from uniseg.wordbreak import word_break

    found = np.zeros(0x110000, np.uint8)
    for point in range(0x110000):
        char = chr(point)
        if unicodedata.category(char) not in ("Cn", "Co", "Cs") or point >= 0xE0000:
            found[point] = NAMES.index(word_break(char).value) | PICTOGRAPH * extended_pictographic(char)
    return found


def of(batch: Batch) -> words.Spans:
    """Unicode words of the batch's text, computed once for each batch."""
    return batch.memo("unicode_words", lambda: spans(batch["text"]))


def spans(array: pa.Array) -> words.Spans:
    """Spans of the Unicode words that start with a letter or digit, as `words.spans` gives words; without `bits`."""
    offsets, data = words.buffers(array)
    bound = (int(offsets[-1]) - int(offsets[0])) // 2 + len(array) + 1
    starts, ends, lengths = (np.empty(bound, np.int32) for _ in range(3))
    doc_offsets = np.zeros(len(array) + 1, np.int32)
    count = _words(offsets, data, table(), *chars.tables(), doc_offsets, starts, ends, lengths)
    return words.Spans(doc_offsets, starts[:count].copy(), ends[:count].copy(), lengths[:count].copy(),
                       np.zeros(0, np.uint8))  # fmt: skip


@njit(cache=True, nogil=True)
def _following(data, i, end, table):
    """Class of the next character that WB4 does not skip, -1 at the end."""
    while i < end:
        cp, i = chars.decode(data, i, end)
        what = table[cp] & 63
        if not EXTEND <= what <= ZWJ:
            return np.int64(what)
    return np.int64(-1)


@njit(cache=True, nogil=True)
def _joins(before, prev, what, data, after, end, table):
    """Rules WB5 to WB13b between `prev` and `what`; `before` stands before `prev`, `after` is the next byte."""
    letter, numeric = what in (LETTER, HEBREW), what == NUMERIC
    prev_letter, prev_numeric = prev in (LETTER, HEBREW), prev == NUMERIC
    if prev_letter or prev_numeric:
        if letter or numeric or what == CONNECTOR:
            return True
        if MID_LETTER <= what <= DOUBLE:
            if prev == HEBREW and what == SINGLE:
                return True
            both = what in (MID_BOTH, SINGLE)
            following = _following(data, after, end, table)
            if prev_numeric:
                return (both or what == MID_NUM) and following == NUMERIC
            if prev == HEBREW and what == DOUBLE:
                return following == HEBREW
            return (both or what == MID_LETTER) and (following in (LETTER, HEBREW))
        return False
    if MID_LETTER <= prev <= DOUBLE:
        both = prev in (MID_BOTH, SINGLE)
        if letter and (both or prev == MID_LETTER):
            return before in (LETTER, HEBREW)
        if what == HEBREW and prev == DOUBLE:
            return before == HEBREW
        return numeric and (both or prev == MID_NUM) and before == NUMERIC
    if prev == KATAKANA:
        return what in (KATAKANA, CONNECTOR)
    return prev == CONNECTOR and (letter or numeric or what in (KATAKANA, CONNECTOR))


@njit(cache=True, nogil=True)
def _words(offsets, data, table, pages, classes, doc_offsets, starts, ends, lengths):
    count = 0
    for doc in range(len(offsets) - 1):
        i, end = np.int64(offsets[doc]), np.int64(offsets[doc + 1])
        counted, size = False, 0  # the open word starts with a letter or digit; its characters
        before, prev, last = np.int64(-1), np.int64(-1), np.int64(-1)  # `last` is the very last one, skipped or not
        while i < end:
            cp, after = chars.decode(data, i, end)
            what = np.int64(table[cp] & 63)
            skipped = EXTEND <= what <= ZWJ
            if LF <= last <= NEWLINE or LF <= what <= NEWLINE or last < 0:
                join = last == CR and what == LF
            elif skipped or (last == ZWJ and table[cp] & PICTOGRAPH) or (last == SPACE and what == SPACE):
                join = True
            else:
                join = _joins(before, prev, what, data, after, end, table)
            if not join:
                if counted:
                    ends[count], lengths[count] = i, size
                    count += 1
                counted = (chars.bits_of(cp, pages, classes) & chars.WORD) != 0 and cp != 95
                size = 0
                if counted:
                    starts[count] = i
            size += 1
            if not skipped:
                before, prev = prev, what
            last = what
            i = after
        if counted:
            ends[count], lengths[count] = end, size
            count += 1
        doc_offsets[doc + 1] = count
    return count
