"""Does a fixed string stand here? Comparisons of bytes that never read at or after the end of a document."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def at(data, i, end, pattern):
    """Does `pattern` (uint8) stand at `data[i]`, whole and before `end`?"""
    if i + len(pattern) > end:
        return False
    for k in range(len(pattern)):  # noqa: SIM110 - numba has no all()
        if data[i + k] != pattern[k]:
            return False
    return True


@njit(cache=True, nogil=True)
def at_any_case(data, i, end, word):
    """As `at`, for a lower-case ASCII `word` that the text may hold in any case."""
    if i + len(word) > end:
        return False
    for k in range(len(word)):
        byte = data[i + k]
        if (byte | np.uint8(32) if 65 <= byte <= 90 else byte) != word[k]:
            return False
    return True
