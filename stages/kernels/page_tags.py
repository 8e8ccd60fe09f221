"""The few tags of a page that carry signals, found in one compiled pass over its bytes.

Reports meta tags about robots, text mining or licences, link tags and anchors that name a licence, and the bodies of
JSON-LD scripts. Comments, scripts and styles are passed over, as a browser would; nothing else of HTML is interpreted,
and no tree is built. A tag ends at the first ">" outside quotes. At most 200 tags of a page are reported.

Trade-off: bytes, so a page in UTF-16 shows nothing. Cost: about 0.6 ns for each byte (1,600 MB/s) on one core.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stages.kernels import literal

META, LINK, ANCHOR, JSON_LD = range(4)
MAX_TAGS = 200


@njit(cache=True, nogil=True)
def _is_tag(data, i, end, word):
    """Does the tag whose "<" and name are `word` start at i?"""
    after = i + len(word)
    return literal.at_any_case(data, i, end, word) and (
        after == end or data[after] <= 32 or data[after] == 47 or data[after] == 62
    )


@njit(cache=True, nogil=True)
def _holds(data, start, end, word):
    for i in range(start, end - len(word) + 1):
        if (data[i] | 32) == word[0] and literal.at_any_case(data, i, end, word):
            return True
    return False


@njit(cache=True, nogil=True)
def _tag_end(data, i, end):
    """Position of the ">" that ends the tag, or the end."""
    quote = np.uint8(0)
    while i < end:
        byte = data[i]
        if quote:
            if byte == quote:
                quote = np.uint8(0)
        elif byte == 62:
            return i
        elif (byte == 34 or byte == 39) and data[i - 1] == 61:  # a stray quote is no value
            quote = byte
        i += 1
    return end


@njit(cache=True, nogil=True)
def _find(data, i, end, mark):
    """Position of the next `mark` in any case, or the end."""
    first = mark[0]
    while i < end:
        if data[i] == first and literal.at_any_case(data, i, end, mark):
            return i
        i += 1
    return end


_A, _META_TAG, _LINK_TAG, _SCRIPT, _STYLE, _COMMENT = (
    np.frombuffer(word, np.uint8) for word in (b"<a", b"<meta", b"<link", b"<script", b"<style", b"<!--")
)
_END_COMMENT, _END_SCRIPT, _END_STYLE = (np.frombuffer(word, np.uint8) for word in (b"-->", b"</script", b"</style"))
_BOT, _TDM, _LICEN, _CC, _LD = (
    np.frombuffer(word, np.uint8) for word in (b"bot", b"tdm-reservation", b"licen", b"creativecommons.org", b"ld+json")
)


@njit(cache=True, nogil=True)
def scan(offsets, data, docs, kinds, starts, ends):
    """Fill the four arrays with tags (their inside, without "<" and ">"); returns how many there were.

    Stops filling at the end of the arrays: call again with longer ones when the number is larger.
    """
    count = 0
    for doc in range(len(offsets) - 1):
        i, end = np.int64(offsets[doc]), np.int64(offsets[doc + 1])
        seen = 0
        while i < end and seen < MAX_TAGS:
            if data[i] != 60 or i + 2 >= end:
                i += 1
                continue
            kind, start, stop = -1, i + 1, i + 1
            byte = data[i + 1] | np.uint8(32)
            if data[i + 1] == 33:
                i = _find(data, i + 2, end, _END_COMMENT) if literal.at_any_case(data, i, end, _COMMENT) else i + 2
                continue
            if byte == 97 and data[i + 2] <= 32:
                i = stop = _tag_end(data, i + 2, end)
                if _holds(data, start, stop, _CC):
                    kind = ANCHOR
            elif byte == 109 and _is_tag(data, i, end, _META_TAG):
                i = stop = _tag_end(data, i + 5, end)
                if _holds(data, start, stop, _BOT) or _holds(data, start, stop, _TDM) or _holds(data, start, stop, _CC):
                    kind = META
            elif byte == 108 and _is_tag(data, i, end, _LINK_TAG):
                i = stop = _tag_end(data, i + 5, end)
                if _holds(data, start, stop, _LICEN) and _holds(data, start, stop, _CC):
                    kind = LINK
            elif byte == 115 and _is_tag(data, i, end, _SCRIPT):
                body = _tag_end(data, i + 7, end)
                json = _holds(data, start, body, _LD)
                i = stop = _find(data, body, end, _END_SCRIPT)
                if json and _holds(data, body, stop, _CC):
                    kind, start = JSON_LD, body
            elif byte == 115 and _is_tag(data, i, end, _STYLE):
                i = _find(data, i + 6, end, _END_STYLE)
            i += 1
            if kind >= 0:
                if count < len(docs):
                    docs[count], kinds[count], starts[count], ends[count] = doc, kind, start, stop
                count += 1
                seen += 1
    return count
