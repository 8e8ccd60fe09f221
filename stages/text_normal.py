"""Named text normalisations, each with a fingerprint that a model keeps and checks.

A score means nothing on text that was normalised otherwise than the model's training text, so no model of this
project is used without the name and fingerprint of its normalisation. The fingerprint covers the whole table, and so
also the Unicode version of the Python that built it.

=========  =====================================================================================================
name       what it does
=========  =====================================================================================================
dclm/1     white space and control characters become a space, nothing else: the input form of the DCLM classifier
lower/1    dclm/1, and lower case
tamis/1    for language models; lines stay lines, and each comes out as words between single spaces:
           lower case; diacritics off (U+0300 to U+036F, also inside composed letters, but Japanese voicing marks,
           Indic vowel signs and Hangul stay); every decimal digit becomes 0; Unicode punctuation becomes ASCII;
           invisible format characters vanish, control characters become a space; each punctuation mark or
           symbol, each Han character and each kana is a word of its own; a run of one mark is one word, cut at 3
=========  =====================================================================================================

tamis/1 follows the steps of CCNet (Wenzek et al. 2020, `text_normalizer.py`) with two differences that matter: line
ends are kept, where CCNet removes them and so glues the last word of a line to the first of the next, and a
full-width 1 is a digit and no quotation mark. `<s>`, `</s>` and `<unk>` cannot come out of it, so text cannot forge
the model's own symbols. Languages that write without spaces outside Han and kana (Thai, Khmer) come out as very long
words.
Cost: 0.4 s to build a table, once for each process, then 150 MB/s of English text on one core.
"""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.stage import StageError
from stages.kernels.fold import ALONE, DROP, KEEP, MARK, MARK3, NEWLINE, SPACE, fold_text

TABLE_SIZE = 0x30000  # planes 0 to 2; what lies above (tags, private use, the rarest Han) is kept as it is
SCORED_BYTES = 1_000_000  # of one document; what follows is not read

_ASCII = {
    "'": "‘’‚‛′‵ʼʹ`´‹›",
    '"': "“”„‟«»″‶〝〞「」『』《》",
    ".": "。．｡・।",
    ",": "，、､،",
    ";": "；؛",
    "?": "？؟¿",
    "!": "！¡",
    "(": "（〔",
    ")": "）〕",
    "[": "［【",
    "]": "］】",
    "<": "〈",
    ">": "〉",
    "-": "−",
}
_TO_ASCII = {other: mark for mark, others in _ASCII.items() for other in others}
_ALONE = (  # kana and Han
    (0x3041, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9D),
    (0x20000, 0x2FFFF),
)


@dataclass(frozen=True, eq=False)
class Normalisation:
    """A table (see `stages.kernels.fold`) under a name. Call it on an array of strings."""

    name: str
    target: np.ndarray
    kind: np.ndarray
    fingerprint: str

    def __call__(self, texts: pa.Array, max_bytes: int = SCORED_BYTES) -> tuple[pa.Array, np.ndarray]:
        """Normalised strings, and int64 counts of shape (n, 2): words and lines."""
        return fold_text(texts, self.target, self.kind, max_bytes)


def _dclm(char: str) -> tuple[str, int]:
    return char, SPACE if char == " " or unicodedata.category(char) == "Cc" else KEEP


def _lower(char: str) -> tuple[str, int]:
    low = char.lower()
    return (low if len(low) == 1 else char), _dclm(char)[1]


def _tamis(char: str) -> tuple[str, int]:
    if char in "\n\u2028\u2029":
        return char, NEWLINE
    category = unicodedata.category(char)
    if category in ("Cc", "Zs"):
        return char, SPACE
    if category == "Cf":
        return char, DROP
    if char == "…":
        return ".", MARK3
    if category == "Nd":
        return "0", KEEP
    if 0xFF01 <= ord(char) <= 0xFF5E:  # full-width ASCII
        char = chr(ord(char) - 0xFEE0)
        category = unicodedata.category(char)
    char = "-" if category == "Pd" else _TO_ASCII.get(char, char)
    if unicodedata.category(char)[0] in "PS":
        return char, MARK
    letters = unicodedata.normalize("NFD", char.lower())
    bare = unicodedata.normalize("NFC", "".join(c for c in letters if not 0x300 <= ord(c) <= 0x36F))
    if not bare:
        return char, DROP
    bare = bare if len(bare) == 1 else char
    return bare, ALONE if any(low <= ord(bare) <= high for low, high in _ALONE) else KEEP


_RULES: dict[str, Callable[[str], tuple[str, int]]] = {"dclm/1": _dclm, "lower/1": _lower, "tamis/1": _tamis}
NAMES = tuple(_RULES)


@functools.cache
def normalisation(name: str) -> Normalisation:
    """The normalisation of that name. Raises ValueError for an unknown one."""
    if name not in _RULES:
        raise ValueError(f"expected a text normalisation among {', '.join(NAMES)}, found {name!r}")
    rule, target, kind = _RULES[name], np.arange(TABLE_SIZE, dtype=np.uint32), np.zeros(TABLE_SIZE, np.uint8)
    for code in range(TABLE_SIZE):
        if not 0xD800 <= code <= 0xDFFF:
            char, kind[code] = rule(chr(code))
            target[code] = ord(char)
    digest = hashlib.sha256(name.encode() + target.astype("<u4").tobytes() + kind.tobytes()).hexdigest()
    return Normalisation(name, target, kind, digest[:16])


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checked_file(path: Path, sha256: str) -> Path:
    """The path, once its content is found to be what the checksum says. Raises StageError otherwise."""
    if not path.is_file():
        raise StageError(f"expected a model file at {path}, found none")
    if (found := file_sha256(path)) != sha256:
        raise StageError(f"model file {path}: expected SHA-256 {sha256}, found {found}")
    return path


def bound_normalisation(record: dict, model: str) -> Normalisation:
    """The normalisation that a model was trained with, from its record `{name, fingerprint}`.

    Raises StageError where this installation would normalise otherwise.
    """
    if record["name"] not in NAMES:
        raise StageError(
            f"model {model}: expected a text normalisation among {', '.join(NAMES)}, found {record['name']!r}"
        )
    found = normalisation(record["name"])
    if found.fingerprint != record["fingerprint"]:
        raise StageError(
            f"model {model}: expected text normalised by {record['name']} {record['fingerprint']}, found "
            f"{found.fingerprint} in this installation (Unicode {unicodedata.unidata_version}); train the model again"
        )
    return found
