"""Text normalisations of other public projects, as their code does them, for models that were trained with them.

=============  ===================================================================================================
ccnet/1        CCNet, `cc_net/text_normalizer.py`: strip, lower case, accents off (NFD without Mn), every decimal
               digit becomes 0, 33 marks become ASCII, control characters are removed
edugp/1        the KenLM models `edugp/kenlm` as their README loads them, and DCLM's copy: as CCNet, but case and
               accents stay
datatrove/1    datatrove 0.10 `utils/perplexity.py`: as CCNet, but a number (digits, maybe with a decimal part) becomes
               one 0; datatrove uses it with the edugp models, which were not trained with it
=============  ===================================================================================================

Two traps are kept, for that is what the models have seen. A line end is a control character, so lines are glued: the
last word of a line and the first of the next become one. And the table of marks turns a full-width 1 into a quotation
mark; it sleeps in all three, because digits become 0 first. Runs of spaces come out as one; other white space, such as
U+00A0, stays for SentencePiece, which takes it for a space. Context matters (`str.lower` knows the final sigma), so
these run on Python strings.
Cost: 13 to 24 MB/s of English text on one core; `str.translate` bounds it wherever a character is not ASCII.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Callable

_MARKS = {
    '"': "„”“«»１」「《》",
    "'": "´’",
    ",": "，、",
    ".": "。",
    ":": "∶：",
    ";": "；",
    "?": "？",
    "!": "！",
    "(": "（",
    ")": "）",
    "<": "〈",
    ">": "〉",
    "[": "【",
    "]": "】",
    "%": "％",
    "~": "～",
    "-": "–━►",
    " - ": "—",
    ". ": "．",
    "...": "…",
}
_NUMBER = re.compile(r"\d+(?:[.,،٫⎖⎗⎘]\d+)?")


@functools.cache
def _table(digits: bool, accents: bool) -> dict[int, str | None]:
    """For `str.translate`: marks to ASCII, no control characters; digits to 0 and Mn off where asked for."""
    table: dict[int, str | None] = {ord(char): mark for mark, chars in _MARKS.items() for char in chars}
    for code in range(sys.maxunicode + 1):
        category = unicodedata.category(chr(code))
        if category == "Cc" or (category == "Mn" and accents):
            table[code] = None
        elif category == "Nd" and digits:
            table[code] = "0"
    return table


@functools.cache
def _ends() -> str:
    """White space and Mn: what `strip` finds at the ends of a text without Mn goes, and so does every Mn."""
    chars = map(chr, range(sys.maxunicode + 1))
    return "".join(char for char in chars if char.isspace() or unicodedata.category(char) == "Mn")


def ccnet(text: str) -> str:
    """CCNet's normalisation of a whole document."""
    return unicodedata.normalize("NFD", text.strip().lower()).translate(_table(True, True))


def edugp(text: str) -> str:
    """The same without lower case and with accents."""
    return text.strip().translate(_table(True, False))


def datatrove(text: str) -> str:
    """datatrove's: numbers as a whole, before accents go, and white space at the ends after."""
    bare = unicodedata.normalize("NFD", _NUMBER.sub("0", text.lower()))
    return bare.strip(_ends()).translate(_table(False, True))


PUBLIC: dict[str, Callable[[str], str]] = {"ccnet/1": ccnet, "edugp/1": edugp, "datatrove/1": datatrove}
