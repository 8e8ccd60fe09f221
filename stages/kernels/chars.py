"""Code-point classes for compiled loops: what Python's str methods say about each character, as table bits.

The table has two levels, pages of 256 code points with equal pages stored once, about 40 kB in all. It is built at
the first use from numpy's vectorised str predicates, which call the same Unicode database as Python's own, so a
compiled loop and `str.isspace` and the like cannot disagree. Building takes about 50 ms.

A character of code point `cp` has the bits `classes[(pages[cp >> 8] << 8) | (cp & 255)]`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import njit

NONSPACE = np.uint8(1)  # not str.isspace(): what str.split() and str.strip() leave
ALPHA = np.uint8(2)  # str.isalpha()
DECIMAL = np.uint8(4)  # str.isdecimal(), which is `\d` in a regular expression
WORD = np.uint8(8)  # `\w` in a regular expression: str.isalnum() or "_"
LINE = np.uint8(16)  # a line boundary of str.splitlines()

LINE_BOUNDARIES = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


@cache
def tables() -> tuple[np.ndarray, np.ndarray]:
    """`(pages, classes)`: uint8[4352], the number of the page of each 256 code points, and uint8[pages * 256]."""
    return paged(common_bits(code_points()))


def code_points() -> np.ndarray:
    """Every code point as a string of one character."""
    return np.arange(0x110000, dtype=np.uint32).view("<U1")


def common_bits(points: np.ndarray) -> np.ndarray:
    """uint8[0x110000]: NONSPACE, ALPHA, DECIMAL, WORD and LINE of each code point."""
    bits = np.where(np.strings.isspace(points), np.uint8(0), NONSPACE)
    bits |= np.where(np.strings.isalpha(points), ALPHA, np.uint8(0))
    bits |= np.where(np.strings.isdecimal(points), DECIMAL, np.uint8(0))
    bits |= np.where(np.strings.isalnum(points), WORD, np.uint8(0))
    bits[ord("_")] |= WORD
    for boundary in LINE_BOUNDARIES:
        bits[ord(boundary)] |= LINE
    return bits


def paged(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two-level form of uint8[0x110000]. Raises RuntimeError where there are too many different pages."""
    rows = bits.reshape(-1, 256)
    numbers: dict[bytes, int] = {}
    pages = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in rows], dtype=np.uint8)
    if len(numbers) > 256:
        raise RuntimeError(f"expected at most 256 different pages of code points, found {len(numbers)}")
    return pages, np.frombuffer(b"".join(numbers), np.uint8)


@njit(cache=True, nogil=True)
def decode(data, i, end):
    """`(code point, next position)` of the UTF-8 sequence at `data[i]`; never reads at or after `end`.

    A sequence cut off by `end` gives U+FFFD and one byte.
    """
    first = np.int32(data[i])
    if first < 0x80:
        return first, i + 1
    if first < 0xE0:
        if i + 1 < end:
            return ((first & 0x1F) << 6) | (np.int32(data[i + 1]) & 0x3F), i + 2
    elif first < 0xF0:
        if i + 2 < end:
            middle = (np.int32(data[i + 1]) & 0x3F) << 6
            return ((first & 0x0F) << 12) | middle | (np.int32(data[i + 2]) & 0x3F), i + 3
    elif i + 3 < end:
        middle = ((np.int32(data[i + 1]) & 0x3F) << 12) | ((np.int32(data[i + 2]) & 0x3F) << 6)
        return (((first & 0x07) << 18) | middle | (np.int32(data[i + 3]) & 0x3F)) & 0x1FFFFF, i + 4
    return np.int32(0xFFFD), i + 1


@njit(cache=True, nogil=True)
def bits_of(cp, pages, classes):
    """The class bits of a code point; 0 past U+10FFFF."""
    if cp > 0x10FFFF:
        return np.uint8(0)
    return classes[(np.int64(pages[cp >> 8]) << 8) | (cp & 255)]


@njit(cache=True, nogil=True)
def strip(data, start, end, pages, classes):
    """The span that `str.strip()` leaves of `data[start:end]`; an all-space span gives `(end, end)`."""
    while start < end:
        cp, after = decode(data, start, end)
        if bits_of(cp, pages, classes) & NONSPACE:
            break
        start = after
    while end > start:
        last = end - 1
        while last > start and (data[last] & 0xC0) == 0x80:
            last -= 1
        cp, _ = decode(data, last, end)
        if bits_of(cp, pages, classes) & NONSPACE:
            break
        end = last
    return start, end


@njit(cache=True, nogil=True)
def length(data, start, end):
    """Code points in `data[start:end]`, as `len(str)`."""
    count = 0
    for i in range(start, end):
        count += (data[i] & 0xC0) != 0x80
    return count
