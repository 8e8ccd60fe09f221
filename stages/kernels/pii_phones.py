"""Telephone numbers: international, North American, with an area code in brackets, national with a 0, or named.

A number is read as groups of digits with single separators; its form then decides how much else it needs:

=================  =====================================================================================
form               needs
=================  =====================================================================================
+49 30 1234567     8 to 15 digits (ITU-T E.164); also with 00 and a separator
212-555-0123       nothing more; likewise (212) 555-0123, 212.555.0123, 1-212-..., an extension after it
(030) 1234567      9 to 13 digits in groups like a number's, and no years
0171 234 5678      9 to 12 digits, a trunk 0, and no word before it such as order, invoice or ISBN
782 2652           7 to 13 digits and a word such as phone, tel or fax near it, or office, fax, mobile after it
=================  =====================================================================================

Dates, runs like 100-200-300, MAC addresses and powers of two do not count. Numbers 555-0100 to 555-0199 are given to
nobody (NANPA keeps them for fiction): they are read and left, and serve as fakes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stages.kernels import pii_checks as checks
from stages.kernels import pii_context as near

MAX_GROUPS = 9
NAMED = 24  # bytes between a word such as phone and a number without separators


@njit(cache=True, nogil=True)
def _separator(data, p, end):
    """Bytes of one separator between groups: space - . / or a no-break space or a typographic hyphen; else 0."""
    byte = data[p]
    if byte == 32 or byte == 45 or byte == 46 or byte == 47:
        return 1
    if byte == 0xC2 and p + 1 < end and data[p + 1] == 0xA0:
        return 2
    if byte == 0xE2 and p + 2 < end and data[p + 1] == 0x80 and 0x90 <= data[p + 2] <= 0x93:
        return 3
    return 0


@njit(cache=True, nogil=True)
def _read(data, s, end, g, inside):
    """Groups of the number at `s` into `g`: rows length, value, end, mark before, inside brackets.

    `inside` says that a bracket before `s` is still open. Returns how many groups. Marks: 0 none, else the byte of the
    last separator (a space for a no-break one, - for a typographic hyphen).
    """
    p, count, total = s, 0, 0
    if data[p] == 43:
        p += 1
    while p < end and count < MAX_GROUPS:
        mark, bracket, steps = np.int64(0), False, 0
        while p < end and steps < 3 and not near.CLASS[data[p]] & near.DIGIT:
            if data[p] == 40 and not bracket:
                bracket = True
                p += 1
            elif count or steps:
                width = _separator(data, p, end)
                if width == 0 or (mark and not bracket):
                    return count
                mark = np.int64(32 if width == 2 else (45 if width == 3 else data[p]))
                p += width
            else:
                return count
            steps += 1
        start, value = p, 0
        while p < end and near.CLASS[data[p]] & near.DIGIT and p - start < 16:
            value = value * 10 + (data[p] - 48)
            p += 1
        if p == start or total + p - start > 17:
            return count
        total += p - start
        stop = p
        if bracket:
            if p >= end or data[p] != 41:
                return count
            p += 1
            stop = p
        elif count == 0 and inside and p < end and data[p] == 41:
            p += 1
            stop = p
        g[0, count], g[1, count], g[2, count] = stop - start - bracket, value, stop
        g[3, count], g[4, count] = mark, bracket
        count += 1
    return count


@njit(cache=True, nogil=True)
def _extension(data, p, end):
    """End of an extension (x45, ext. 45, #45) at p, or p."""
    q = p + (p < end and (data[p] == 32 or data[p] == 44))
    q += q < end and data[q] == 32
    if q + 3 <= end and data[q] | 32 == 101 and data[q + 1] | 32 == 120 and data[q + 2] | 32 == 116:
        q += 3
        q += q < end and data[q] == 46
    elif q < end and (data[q] | 32 == 120 or data[q] == 35):
        q += 1
    else:
        return p
    q += q < end and (data[q] == 32 or data[q] == 58)
    start = q
    while q < end and q - start < 6 and near.CLASS[data[q]] & near.DIGIT:
        q += 1
    return q if q > start and near.right_edge(data, q, end) else p


@njit(cache=True, nogil=True)
def _year(length, value):
    return length == 4 and 1800 <= value <= 2099


@njit(cache=True, nogil=True)
def _variety(data, s, stop):
    """How many different digits there are."""
    seen = 0
    for p in range(s, stop):
        if near.CLASS[data[p]] & near.DIGIT:
            seen |= 1 << (data[p] - 48)
    kinds = 0
    for digit in range(10):
        kinds += (seen >> digit) & 1
    return kinds


@njit(cache=True, nogil=True)
def _limit(data, s, stop):
    """A bound of an integer type, as in -2147483648 to +2147483647?"""
    value = 0
    for p in range(s, stop):
        if near.CLASS[data[p]] & near.DIGIT:
            value = value * 10 + (data[p] - 48)
    return value == 2**31 - 1 or value == 2**31 or value == 2**32 - 1 or value == 2**32


@njit(cache=True, nogil=True)
def _like_a_date(g, count):
    """Day, month and year in some order, or groups that are all years."""
    years = True
    for k in range(count):
        years &= _year(g[0, k], g[1, k])
    if years:
        return True
    if count < 3:
        return False
    if _year(g[0, 0], g[1, 0]) and g[0, 1] == 2 and g[1, 1] <= 12 and g[0, 2] == 2 and g[1, 2] <= 31:
        return True
    return g[0, 0] == 2 and g[0, 1] == 2 and g[1, 0] <= 31 and g[1, 1] <= 31 and _year(g[0, 2], g[1, 2])


@njit(cache=True, nogil=True)
def _american(data, s, end, g, count, plus):
    """`(groups used, reserved)` of a North American number: 3-3-4 digits, a country code 1 before or not; or 0."""
    k = 0
    if count >= 4 and g[1, 0] == 1 and (g[0, 0] == 1 or (g[0, 0] == 3 and not plus)):
        k = 1
    if count < k + 3 or g[0, k] != 3 or g[0, k + 1] != 3 or g[0, k + 2] != 4:
        return 0, False
    first, second = g[3, k + 1], g[3, k + 2]
    bracket = g[4, k] or data[s] == 40
    if not bracket and first != second and not (first == 45 or second == 45):
        return 0, False
    if not bracket and k == 0 and not plus and second == 32 and not (200 <= g[1, 0] <= 989 and g[1, 1] >= 200):
        return 0, False
    if not bracket and (first == 47 or second == 47) and not (first == 47 and second == 45):
        return 0, False
    return k + 3, g[1, k + 1] == 555 and 100 <= g[1, k + 2] <= 199


@njit(cache=True, nogil=True)
def _accept(data, lo, s, end, g, count, plus):
    """Do the first `count` groups form a number by the table above? Not the North American ones."""
    total, marks, dots, shortest, pairs, triples = 0, 0, 0, 99, True, True
    for k in range(count):
        total += g[0, k]
        marks += g[3, k] != 0 or g[4, k] != 0
        dots += g[3, k] == 46
        if (g[3, k] == 47 and (k != 1 or (data[s] != 48 and not plus))) or (k and g[4, k] and not plus):
            return False
        if k:
            shortest = min(shortest, g[0, k])
        pairs &= g[0, k] == 2
        triples &= g[0, k] == 3
    stop = g[2, count - 1]
    if total < 6 or total > 15 or _limit(data, s, stop):
        return False
    if stop + 2 < end and data[stop] == 32 and near.CLASS[data[stop + 1]] & near.CLASS[data[stop + 2]] & near.DIGIT:
        return False  # the number goes on: a row of a table
    variety = _variety(data, s, stop)
    decimal = count == 2 and dots == 1 and data[s] != 40
    zero = data[s] == 48
    if plus:
        return total >= 8 and g[0, count - 1] >= 2 and not decimal and variety >= 3
    if zero and s + 1 < end and data[s + 1] == 48:
        if g[0, 0] < 3 or g[0, 0] > 5 or count < 2 or shortest < 2 or decimal or variety < 4 or total < 10:
            return False
        return data[s + 2] != 48 and (data[s + 2] != 49 or total == 13)
    if _like_a_date(g, count) or (pairs and count >= 6) or (triples and count >= 4):
        return False
    if s > lo + 1 and data[s - 1] == 32 and near.CLASS[data[s - 2]] & near.DIGIT:
        return False
    area = data[s] == 40 and variety >= 3 and count >= 2 and shortest >= 3 and 2 <= g[0, 0] <= 5 and g[3, 1] != 47
    if area and 9 <= total <= 13 and not _year(g[0, 0], g[1, 0]) and not _year(g[0, 1], g[1, 1]) and (
            g[1, 0] < 100 or zero or total >= 10):  # fmt: skip
        return True
    _, nearest, at = near.before(data, lo, s)
    named = nearest & (near.PHONE | near.CONTACT)
    if nearest & near.NUMBER and not named:
        return False
    zero |= data[s] == 40 and data[s + 1] == 48
    trunk = zero and variety >= 4 and count >= 2 and 9 <= total <= 12 and shortest >= 2 and g[0, 0] >= 2
    if trunk and marks <= 5 and not decimal and not _ladder(g, count) and not (
            count == 2 and g[0, 0] == 5 and g[0, 1] == 4):  # a US ZIP+4  # fmt: skip
        return True
    if decimal or (shortest < 2 and count > 1) or (count == 1 and not 7 <= total <= 12) or variety < 2:
        return False
    following = near.after(data, stop, end) & near.AFTER
    if total < 7:
        return following != 0
    if count == 1:
        close = s - at <= NAMED and ((nearest & near.PHONE) != 0 or total >= 10)
        return (following != 0 and total >= 9) or (named != 0 and close)
    return following != 0 or named != 0


@njit(cache=True, nogil=True)
def _ladder(g, count):
    """Do the groups count up, as in 01 02 03 04 05?"""
    for k in range(1, count):
        if g[1, k] != g[1, k - 1] + 1:
            return False
    return count > 2


@njit(cache=True, nogil=True)
def match(data, lo, s, end, g):
    """`(end, answer)` of the telephone number at `s`, the longest run of groups that forms one; `g` is scratch."""
    plus = data[s] == 43
    if data[s] == 40:
        bracketed = s + 1
        if bracketed < end and data[bracketed] == 43:  # (+49) 30 ...
            plus = True
        q = bracketed + plus
        while q < end and near.CLASS[data[q]] & near.DIGIT:
            q += 1
        if q >= end or data[q] != 41 or q - bracketed - plus < 2 - plus or q - bracketed - plus > 5:
            return s, checks.NO
    inside = data[s] == 40 and plus
    count = _read(data, s + inside, end, g, inside)
    if count == 0:
        return s, checks.NO
    used, reserved = _american(data, s, end, g, count, plus)
    if used:
        stop = _extension(data, g[2, used - 1], end)
        if stop > g[2, used - 1] or near.right_edge(data, stop, end):
            return stop, checks.RESERVED if reserved else checks.YES
    for n in range(count, 0, -1):
        stop = _extension(data, g[2, n - 1], end)
        if (stop > g[2, n - 1] or near.right_edge(data, stop, end)) and _accept(data, lo, s, end, g, n, plus):
            return stop, checks.YES
    return s, checks.NO
