"""E-mail and IP addresses around an anchor, compiled.

An e-mail has an atext-like name of at most 64 characters before the @ (RFC 5321) and a domain of labels whose last has
two to 24 letters; letters of two UTF-8 bytes count (Latin, Greek, Cyrillic ...), those of three do not, because scripts
without spaces write them right before an address. An IP address must be globally reachable (IANA special-purpose
registries); a dotted number is no address next to more dots or after a version word, or when no octet reaches 32.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from stages.kernels import pii_checks as checks
from stages.kernels import pii_context as near

# IANA special-purpose registry, IPv4: not reachable by all, as pairs of first and last address
_SPECIAL = np.array([
    [int.from_bytes(bytes(map(int, part.split(".")))) for part in pair.split("-")]
    for pair in (
        "0.0.0.0-0.255.255.255", "10.0.0.0-10.255.255.255", "100.64.0.0-100.127.255.255",
        "127.0.0.0-127.255.255.255", "169.254.0.0-169.254.255.255", "172.16.0.0-172.31.255.255",
        "192.0.0.0-192.0.0.255", "192.0.2.0-192.0.2.255", "192.88.99.0-192.88.99.255",
        "192.168.0.0-192.168.255.255", "198.18.0.0-198.19.255.255", "198.51.100.0-198.51.100.255",
        "203.0.113.0-203.0.113.255", "224.0.0.0-255.255.255.255",
    )
], np.int64)  # fmt: skip
_EXAMPLE = np.frombuffer(b"example", np.uint8)
_FILES = tuple(np.frombuffer(word, np.uint8) for word in b"png jpg jpeg gif svg webp css html".split())


@njit(cache=True, nogil=True)
def _wide_letter(data, p, end):
    """Bytes of a letter of Latin, Greek, Cyrillic, Hebrew or Arabic beyond ASCII at p (two bytes), or 0."""
    if p + 1 < end and 0xC3 <= data[p] <= 0xDF and 0x80 <= data[p + 1] < 0xC0:
        return 2
    return 0


@njit(cache=True, nogil=True)
def _example_domain(data, start, end):
    """Is the domain example.com, example.org, example.net, below one of them, or in .example (RFC 2606)?"""
    stop = end
    for _ in range(2):
        p = stop
        while p > start and data[p - 1] != 46:
            p -= 1
        if stop - p == 7:
            k = 0
            while k < 7 and data[p + k] | 32 == _EXAMPLE[k]:
                k += 1
            if k == 7:
                return True
        if p == start or end - p != 3:
            return False
        a, b, c = data[p] | 32, data[p + 1] | 32, data[p + 2] | 32
        if not ((a == 99 and b == 111 and c == 109) or (a == 111 and b == 114 and c == 103) or (
                a == 110 and b == 101 and c == 116)):  # fmt: skip
            return False
        stop = p - 1
    return False


@njit(cache=True, nogil=True)
def _file_name(data, start, end):
    for word in _FILES:
        if end - start == len(word):
            k = 0
            while k < len(word) and data[start + k] | 32 == word[k]:
                k += 1
            if k == len(word):
                return True
    return False


@njit(cache=True, nogil=True)
def email(data, lo, i, after, end):
    """`(start, end, answer)` of the address whose @ is at `i:after`, or `(i, i, NO)`."""
    start, p = i, i
    while p > lo and i - p <= 64:
        if near.CLASS[data[p - 1]] & near.LOCAL:
            if data[p - 1] == 46 and p < i and data[p] == 46:
                break
            p -= 1
        elif p - 2 >= lo and _wide_letter(data, p - 2, i):
            p -= 2
        else:
            break
        if near.CLASS[data[p]] & near.WORD or data[p] >= 0x80:
            start = p
    if start == i or i - p > 64 or data[i - 1] == 46:
        return i, i, checks.NO
    p, good, label, top, letters = after, after, after, after, True
    while p < end and p - after < 254:
        bits, wide = near.CLASS[data[p]], _wide_letter(data, p, end)
        if (bits & near.WORD and data[p] != 95) or wide:
            letters &= wide > 0 or (bits & near.LETTER) != 0
            p += max(wide, 1)
        elif data[p] == 45 and p > label:
            letters = False
            p += 1
        elif data[p] == 46 and p > label:
            if letters and label > after and p - label >= 2:
                good, top = p, label
            p += 1
            label, letters = p, True
        else:
            break
    if p > label and label > after and letters and 2 <= p - label <= 24 and not (
            p < end and (data[p] == 45 or data[p] == 95)):  # fmt: skip
        good, top = p, label
    elif label == p and p > after and data[p - 1] == 46 and good < p - 1:
        good = after
    if good == after or good - top > 48 or _file_name(data, top, good):
        return i, i, checks.NO
    if (
        i - start == 3
        and data[start] == 103
        and data[start + 1] == 105
        and data[start + 2] == 116
        and (good < end and data[good] == 58)
    ):  # git@host:path
        return i, i, checks.NO
    return start, good, checks.RESERVED if _example_domain(data, after, good) else checks.YES


@njit(cache=True, nogil=True)
def ipv4(data, lo, s, end):
    """`(end, answer)` of the IPv4 address at s; versions, section numbers and special ranges are not one."""
    p, value, parts, largest = s, 0, 0, 0
    while parts < 4:
        start, part = p, 0
        while p < end and p - start < 3 and near.CLASS[data[p]] & near.DIGIT:
            part = part * 10 + (data[p] - 48)
            p += 1
        if p == start or part > 255 or (p - start > 1 and data[start] == 48):
            return s, checks.NO
        value, largest, parts = value * 256 + part, max(largest, part), parts + 1
        if parts < 4:
            if p >= end or data[p] != 46:
                return s, checks.NO
            p += 1
    if p < end and (near.CLASS[data[p]] & near.WORD or data[p] == 45 or data[p] == 64):
        return s, checks.NO
    if p + 1 < end and data[p] == 46 and near.CLASS[data[p + 1]] & near.WORD:
        return s, checks.NO
    if s > lo and (near.CLASS[data[s - 1]] & near.WORD or data[s - 1] == 46 or data[s - 1] == 43 or data[s - 1] == 45):
        return s, checks.NO
    for k in range(len(_SPECIAL)):
        if _SPECIAL[k, 0] <= value <= _SPECIAL[k, 1]:
            return p, checks.RESERVED
    if largest < 32 or near.is_version(data, lo, s):
        return s, checks.NO
    return p, checks.YES


@njit(cache=True, nogil=True)
def ipv6(data, lo, s, end):
    """`(end, answer)` of the IPv6 address at s, of 2000::/3, all that is given out; special ranges are reserved."""
    if s > lo and (near.CLASS[data[s - 1]] & near.WORD or data[s - 1] == 58 or data[s - 1] == 46):
        return s, checks.NO
    p, parts, gap, first, second = s, 0, False, 0, 0
    stop = s
    while parts < 8:
        start, part = p, 0
        while p < end and p - start < 4 and near.CLASS[data[p]] & near.HEX:
            byte = data[p] | 32
            part = part * 16 + (byte - 48 if byte < 58 else byte - 87)
            p += 1
        if p == start or (p < end and near.CLASS[data[p]] & near.WORD):
            return s, checks.NO
        if parts == 0:
            first = part
        elif parts == 1 and not gap:
            second = part
        parts += 1
        stop = p
        if p >= end or data[p] != 58:
            break
        if p + 1 < end and data[p + 1] == 58:
            if gap:
                return s, checks.NO
            gap = True
            p += 2
            stop = p
            if p >= end or not near.CLASS[data[p]] & near.HEX:
                break
        elif p + 1 < end and near.CLASS[data[p + 1]] & near.HEX:
            p += 1
        else:
            break
    if (parts == 8 and gap) or (parts < 8 and not gap) or parts == 1:
        return s, checks.NO
    if stop < end and (near.CLASS[data[stop]] & near.WORD or (data[stop] == 58 and stop + 1 < end and (
            near.CLASS[data[stop + 1]] & near.WORD or data[stop + 1] == 58))):  # fmt: skip
        return s, checks.NO
    if (
        (first == 0x2001 and (second == 0xDB8 or second < 0x200))
        or first == 0x2002
        or (first == 0x3FFF and second < 0x1000)
    ):
        return stop, checks.RESERVED
    return stop, checks.YES if first >> 13 == 1 else checks.RESERVED
