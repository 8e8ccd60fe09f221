"""Code-point bits beyond those of `chars`: letter case, digits and alphanumerics, for the line and code rules.

The table has the layout and the common bits of `chars.tables()`, so `chars.bits_of`, `chars.strip` and the like take
it as well. Built at the first use from numpy's str predicates, in about 70 ms, it equals Python's str methods.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from stages.kernels.chars import ALPHA, DECIMAL, LINE, LINE_BOUNDARIES, NONSPACE, WORD

UPPER = np.uint8(32)  # str.isupper() of the single character
DIGIT = np.uint8(64)  # str.isdigit(): also superscripts and circled digits
ALNUM = np.uint8(128)  # str.isalnum()


@cache
def tables() -> tuple[np.ndarray, np.ndarray]:
    """`(pages, classes)`, uint8[4352] and uint8[pages * 256], with all eight bits of a character."""
    points = np.arange(0x110000, dtype=np.uint32).view("<U1")
    bits = np.where(np.strings.isspace(points), np.uint8(0), NONSPACE)
    alnum = np.strings.isalnum(points)
    for bit, holds in (
        (ALPHA, np.strings.isalpha(points)),
        (DECIMAL, np.strings.isdecimal(points)),
        (WORD, alnum),
        (UPPER, np.strings.isupper(points)),
        (DIGIT, np.strings.isdigit(points)),
        (ALNUM, alnum),
    ):
        bits |= np.where(holds, bit, np.uint8(0))
    bits[ord("_")] |= WORD
    for boundary in LINE_BOUNDARIES:
        bits[ord(boundary)] |= LINE
    rows = bits.reshape(-1, 256)
    numbers: dict[bytes, int] = {}
    pages = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in rows], dtype=np.uint8)
    if len(numbers) > 256:
        raise RuntimeError(f"expected at most 256 different pages of code points, found {len(numbers)}")
    return pages, np.frombuffer(b"".join(numbers), np.uint8)
