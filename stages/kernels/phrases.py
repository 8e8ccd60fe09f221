"""Search for fixed ASCII phrases in UTF-8 text without regard to case, as two Python idioms would find them.

`LOWER` compares with the lower-cased text (`phrase in text.lower()`), where U+212A KELVIN SIGN also gives "k".
`IGNORECASE` compares as `re.IGNORECASE` does, which besides takes U+0130 and U+0131 for "i" and U+017F for "s".
Phrases are lower case. Cost: about 1 ns for each byte of text, more where the first two letters are frequent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

LOWER, IGNORECASE = False, True


class Phrases(NamedTuple):
    """Up to 32 phrases: their bytes one after the other, the bounds, and which can have a byte first or second."""

    data: np.ndarray  # uint8[bytes]
    bounds: np.ndarray  # int64[phrases + 1]
    first: np.ndarray  # uint32[256], one bit for each phrase
    second: np.ndarray  # uint32[256]


_OTHERS = {"k": "\u212a", "i": "\u0130\u0131", "s": "\u017f"}  # characters that some mode takes for a letter


def phrases(items: Sequence[bytes]) -> Phrases:
    """Pack lower-case ASCII phrases of at least two letters. Raises ValueError for others."""
    if not 0 < len(items) <= 32 or any(len(item) < 2 or not item.isascii() or item != item.lower() for item in items):
        raise ValueError(f"expected 1 to 32 lower-case ASCII phrases, found {items!r}")
    first, second = np.zeros(256, np.uint32), np.zeros(256, np.uint32)
    for k, item in enumerate(items):
        letters = [[c, c.upper(), *_OTHERS.get(c, "")] for c in item[:2].decode()]
        for a in letters[0]:
            for b in letters[1]:
                pair = (a + b).encode()
                first[pair[0]] |= np.uint32(1 << k)
                second[pair[1]] |= np.uint32(1 << k)
    bounds = np.cumsum([0, *map(len, items)]).astype(np.int64)
    return Phrases(np.frombuffer(b"".join(items), np.uint8), bounds, first, second)


@njit(cache=True, nogil=True)
def folded(data, i, end, ignorecase):
    """`(lower-case byte, next position)` of the character at i; 0xFF for one that is no ASCII letter's equal."""
    byte = data[i]
    if byte < 0x80:
        return (byte | np.uint8(32) if 65 <= byte <= 90 else byte), i + 1
    if byte == 0xE2 and i + 2 < end and data[i + 1] == 0x84 and data[i + 2] == 0xAA:
        return np.uint8(107), i + 3
    if ignorecase and i + 1 < end:
        if byte == 0xC4 and (data[i + 1] == 0xB0 or data[i + 1] == 0xB1):
            return np.uint8(105), i + 2
        if byte == 0xC5 and data[i + 1] == 0xBF:
            return np.uint8(115), i + 2
    return np.uint8(0xFF), i + 1


@njit(cache=True, nogil=True)
def match(data, i, end, packed, k, ignorecase):
    """End of phrase k where it starts at i, else -1."""
    for p in range(packed.bounds[k], packed.bounds[k + 1]):
        if i >= end:
            return -1
        byte, i = folded(data, i, end, ignorecase)
        if byte != packed.data[p]:
            return -1
    return i


@njit(cache=True, nogil=True)
def find(data, start, end, packed, ignorecase):
    """The phrases that the span contains, as bits of a uint32; stops when all were seen."""
    found = np.uint32(0)
    every = np.uint32((1 << (len(packed.bounds) - 1)) - 1)
    for i in range(start, end - 1):
        possible = packed.first[data[i]] & packed.second[data[i + 1]] & ~found
        if possible == 0:
            continue
        for k in range(len(packed.bounds) - 1):
            if (possible >> np.uint32(k)) & np.uint32(1) and match(data, i, end, packed, k, ignorecase) >= 0:
                found |= np.uint32(1) << np.uint32(k)
        if found == every:
            break
    return found
