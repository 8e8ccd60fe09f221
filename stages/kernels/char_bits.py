"""Code-point bits beyond those of `chars`: letter case, digits and alphanumerics, for the line and code rules.

The table has the layout and the common bits of `chars.tables()`, so `chars.bits_of`, `chars.strip` and the like take
it as well. Built at the first use from numpy's str predicates, in about 70 ms, it equals Python's str methods.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from stages.kernels import chars

UPPER = np.uint8(32)  # str.isupper() of the single character
DIGIT = np.uint8(64)  # str.isdigit(): also superscripts and circled digits
ALNUM = np.uint8(128)  # str.isalnum()


@cache
def tables() -> tuple[np.ndarray, np.ndarray]:
    """`(pages, classes)`, uint8[4352] and uint8[pages * 256], with all eight bits of a character."""
    points = chars.code_points()
    bits = chars.common_bits(points)
    for bit, holds in ((UPPER, np.strings.isupper), (DIGIT, np.strings.isdigit), (ALNUM, np.strings.isalnum)):
        bits |= np.where(holds(points), bit, np.uint8(0))
    return chars.paged(bits)
