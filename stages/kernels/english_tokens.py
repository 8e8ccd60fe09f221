"""spaCy's English word tokenizer on many strings at once: the exact, slow half of `stages/kernels/tokens.py`.

datatrove counts words with `spacy.blank("en")`, so its variants need spaCy's rules: about 1,300 special cases, and
prefixes, suffixes and infixes as regular expressions. They are asked, not restated. Cost: about 30 us for a new word.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np
from numba import njit

from stages.kernels import chars

# What is known of a token beside `chars.ALPHA`: the union over its characters, and FINAL for the whole token.
TEXT = np.uint8(32)  # a character that datatrove does not count as a symbol
NOT_PUNCTUATION = np.uint8(64)  # a character outside the categories P*, so that spaCy's `is_punct` is false
FINAL = np.uint8(128)  # the token is one of the marks at which spaCy's sentencizer ends a sentence

# Code points of datatrove's `utils/text.py` (0.10): marks that end a sentence, and the other symbols.
TERMINAL = (
    "21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 17D4-17D6 "
    "17D9-17DA 1803 1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F 203C-203D 2047-2049 "
    "2E2E 2E3C 2E53-2E54 3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB "
    "FE52 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57 10F55-10F59 10F86-10F89 11047-11048 110BE-110C1 11141-11143 "
    "111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C 112A9 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 "
    "1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C 11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F 16AF5 "
    "16B37-16B38 16B44 16E98 1BC9F 1DA88"
)
SYMBOLS = (
    "0-8 B-1F 22-2D 2F 3A-3E 40 5B-60 7B-9F AB B4 BB 2013-2014 2019 201C-201E 2026 2236 2501 25BA 3001 3008-300D "
    "3010-3011 FF05 FF08-FF09 FF0C FF11 FF1A-FF1B FF5E"
)


def code_points(ranges: str) -> np.ndarray:
    """int64 code points of a list of hexadecimal numbers and ranges."""
    pairs = [(part.split("-")[0], part.split("-")[-1]) for part in ranges.split()]
    return np.concatenate([np.arange(int(first, 16), int(last, 16) + 1) for first, last in pairs])


@cache
def version() -> str:
    """Version of the installed spaCy: its rules are part of what a node's result depends on."""
    return f"spacy-{metadata.version('spacy')}"


@cache
def language() -> Any:
    import spacy  # takes a second, and most runs need none of it

    english: Any = spacy.blank("en")
    english.vocab.lex_attr_getters = {}  # shapes, prefixes and the like of each new word: not asked for here
    return english


@cache
def marks() -> np.ndarray:
    """uint8[0x110000]: ALPHA, TEXT, NOT_PUNCTUATION and FINAL of each code point. Takes about .2 s."""
    from spacy.pipeline import Sentencizer

    points = np.arange(0x110000)
    pages, classes = chars.tables()
    found = classes[(pages[points >> 8].astype(np.int64) << 8) | (points & 255)] & chars.ALPHA
    symbol = np.zeros(0x110000, np.bool_)
    symbol[code_points(SYMBOLS)] = symbol[code_points(TERMINAL)] = True
    found |= np.where(symbol, np.uint8(0), TEXT)
    punctuation = np.array([unicodedata.category(chr(point))[0] == "P" for point in range(0x110000)])
    found |= np.where(punctuation, np.uint8(0), NOT_PUNCTUATION)
    found[[ord(mark) for mark in Sentencizer.default_punct_chars]] |= FINAL
    return found


def special_cases() -> list[bytes]:
    """Strings that spaCy splits by a rule of their own."""
    rules = [rule.encode() for rule in language().tokenizer.rules]
    return [rule for rule in rules if rule and not rule.decode().isspace()]


def split(joined: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of strings without white space, joined by newlines.

    Returns `(counts, ends, lengths, bits)`: int64 tokens of each string, then for each token its end in bytes from
    the start of its string, its code points, and its bits. Tokens follow each other without gaps. A newline
    between two strings is a token of its own to spaCy, so none of its rules can span two of them.
    """
    from spacy.attrs import IDX, LENGTH

    english = language()
    with english.memory_zone():  # spaCy forgets the words again: its store would grow without bound
        found = english.tokenizer(joined.decode()).to_array([IDX, LENGTH]).astype(np.int64)
    data = np.frombuffer(joined, np.uint8)
    heads = np.append(np.flatnonzero((data & 0xC0) != 0x80), len(data))  # byte of each code point
    starts, ends = heads[found[:, 0]], heads[found[:, 0] + found[:, 1]]
    separator = data[starts] == 10
    counts = np.diff(np.flatnonzero(np.concatenate([[True], separator, [True]]))) - 1
    starts, ends, lengths = starts[~separator], ends[~separator], found[~separator, 1]
    first = np.append(0, np.flatnonzero(data == 10) + 1)
    bits = np.empty(len(starts), np.uint8)
    _bits(data, starts, ends, lengths, marks(), bits)
    return counts, ends - np.repeat(first, counts), lengths, bits


@njit(cache=True, nogil=True)
def _bits(data, starts, ends, lengths, table, bits):
    for k in range(len(starts)):
        i, union = starts[k], np.uint8(0)
        while i < ends[k]:
            point, i = chars.decode(data, i, ends[k])
            union |= table[point]
        bits[k] = union if lengths[k] == 1 else union & ~FINAL
