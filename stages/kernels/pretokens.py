"""Pre-tokens of byte-level BPE, in compiled code: the published split patterns without a regular-expression engine.

`end_of` gives the end of the match that the pattern has at a position. It follows the alternatives of `PATTERNS` in
`stages/token_encoding.py` one by one; every position matches, so the matches cover the text. Letters (\\p{L}), numbers
(\\p{N}) and white space (\\s) are what the library `tokenizers` says of each code point, asked once in each process
(about 0.4 s), so that the two cannot disagree by a version of Unicode.

Case folding in Llama 3's contractions knows one letter beyond ASCII: U+017F, the long s, is an s.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import njit
from tokenizers import Regex, normalizers

from stages.kernels import chars

LETTER, NUMBER, SPACE, NEWLINE = np.uint8(1), np.uint8(2), np.uint8(4), np.uint8(8)  # none: any other character
GPT2, LLAMA3 = 0, 1
RUNS, SINGLE, THREE = 0, 1, 3  # digits of a number in one pre-token; RUNS: all, and the space before


@cache
def classes() -> np.ndarray:
    """uint8[0x110000]: the bits above of each code point."""
    bits = np.zeros(0x110000, np.uint8)
    points = np.concatenate([np.arange(0xD800), np.arange(0xE000, 0x110000)])
    text = "".join(map(chr, points))
    for bit, pattern in ((LETTER, r"\p{L}"), (NUMBER, r"\p{N}"), (SPACE, r"\s")):
        others = normalizers.Replace(Regex(pattern), "").normalize_str(text)
        bits[points] |= bit
        bits[np.frombuffer(others.encode("utf-32-le"), np.uint32)] &= ~bit
    bits[[0x0A, 0x0D]] |= NEWLINE
    return bits


@njit(cache=True, nogil=True)
def classify(data, offsets, classes, out):
    """Write the class of its character to `out` (uint8) for every byte of the documents `data[offsets[d]:...]`.

    With that, a run of one class is a run of equal bytes, and nothing is decoded twice.
    """
    for doc in range(len(offsets) - 1):
        i, stop = np.int64(offsets[doc]), np.int64(offsets[doc + 1])
        while i < stop:
            first = data[i]
            if first < 0x80:
                out[i] = classes[first]
                i += 1
            else:
                cp, after = chars.decode(data, i, stop)
                bits = classes[cp] if cp < 0x110000 else np.uint8(0)
                while i < after:
                    out[i] = bits
                    i += 1


@njit(cache=True, nogil=True)
def _contraction(data, i, stop, fold):
    """End of s, t, re, ve, m, ll or d at `i`, else 0; `fold` takes capitals and U+017F too."""
    lower = np.uint8(0x20 if fold else 0)
    first = data[i] | lower
    if first == 0x73 or first == 0x74 or first == 0x6D or first == 0x64:  # s t m d
        return i + 1
    if i + 1 >= stop:
        return 0
    second = data[i + 1] | lower
    if (first == 0x72 or first == 0x76) and second == 0x65:  # re ve
        return i + 2
    if first == 0x6C and second == 0x6C:  # ll
        return i + 2
    if fold and data[i] == 0xC5 and data[i + 1] == 0xBF:
        return i + 2
    return 0


@njit(cache=True, nogil=True)
def end_of(data, kinds, i, stop, pattern, digits):
    """End of the pre-token that starts at byte `i` < `stop`; `stop` counts as the end of the text.

    `data` is UTF-8 and `kinds` what `classify` made of it.
    """
    kind = kinds[i]
    if kind == LETTER:
        while i < stop and kinds[i] == LETTER:
            i += 1
        return i
    after = i + 1
    while after < stop and data[after] & 0xC0 == 0x80:
        after += 1
    follows = kinds[after] if after < stop else SPACE
    space = data[i] == 0x20
    if data[i] == 0x27 and after < stop:
        end = _contraction(data, after, stop, pattern == LLAMA3)
        if end:
            return end
    if follows == LETTER and (space if pattern == GPT2 else kind & (NEWLINE | NUMBER) == 0):
        while after < stop and kinds[after] == LETTER:
            after += 1
        return after
    if kind == NUMBER or (digits == RUNS and space and follows == NUMBER):
        count = 1
        while after < stop and kinds[after] == NUMBER and (digits == RUNS or count < digits):
            after += 1
            while after < stop and data[after] & 0xC0 == 0x80:
                after += 1
            count += 1
        return after
    if kind == 0 or (space and follows == 0):
        while after < stop and kinds[after] == 0:
            after += 1
        while pattern == LLAMA3 and after < stop and kinds[after] & NEWLINE:
            after += 1
        return after
    return _spaces(data, kinds, i, stop, pattern)


@njit(cache=True, nogil=True)
def _spaces(data, kinds, i, stop, pattern):
    """End of the pre-token in the run of white space at `i`: to its last line break with Llama 3, else all of it but
    the last character, which belongs to what follows."""
    end, line = i, i
    while end < stop and kinds[end] & SPACE:
        end += 1
        if kinds[end - 1] & NEWLINE:
            line = end
    if pattern == LLAMA3 and line > i:
        return line
    if end == stop:
        return end
    last = end - 1
    while last > i and data[last] & 0xC0 == 0x80:
        last -= 1
    return last if last > i else end
