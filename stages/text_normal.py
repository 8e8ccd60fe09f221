"""Named text normalisations, each with a fingerprint that a model keeps and checks.

A score means nothing on text that was normalised otherwise than the model's training text, so no language model is
used without the name and fingerprint of its normalisation. The fingerprint covers what each code point becomes, and
so also the Unicode version of the Python that built it.

=========  =====================================================================================================
name       what it does
=========  =====================================================================================================
tamis/1    lines stay lines, and each comes out as words between single spaces:
           lower case; diacritics off (U+0300 to U+036F, also inside composed letters, but Japanese voicing marks,
           Indic vowel signs and Hangul stay); every decimal digit becomes 0; Unicode punctuation becomes ASCII;
           invisible format characters vanish, control characters become a space; each punctuation mark or
           symbol, each Han character and each kana is a word of its own; a run of one mark is one word, cut at 3
none/1     lines stay lines, white space and control characters become single spaces, nothing else changes
ccnet/1    and edugp/1, datatrove/1: the definitions of these projects, see `stages.text_public`
=========  =====================================================================================================

tamis/1 follows the steps of CCNet (Wenzek et al. 2020, `text_normalizer.py`) with two differences that matter: line
ends are kept, where CCNet removes them and so glues the last word of a line to the first of the next, and a
full-width 1 is a digit and no quotation mark. Languages that write without spaces outside Han and kana (Thai, Khmer)
come out as very long words: SentencePiece units suit them. `<s>`, `</s>` and `<unk>` cannot come out of any of them,
so text cannot forge the model's own symbols: where marks do not stand alone, `<s>` comes out as `(s)`.
Cost of the first two: 0.4 s to build a table, once for each process, then 150 MB/s of English text on one core.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.stage import StageError
from stages.kernels.fold import ALONE, DROP, KEEP, MARK, MARK3, NEWLINE, SPACE, fold_text
from stages.text_public import PUBLIC

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


_SYMBOL = r"<(/?s|unk)>"  # KenLM's own

Fold = Callable[[pa.Array, int], tuple[pa.Array, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Normalisation:
    """A way to fold strings, under a name. Call it on an array of strings."""

    name: str
    fingerprint: str
    fold: Fold

    def __call__(self, texts: pa.Array, max_bytes: int = SCORED_BYTES) -> tuple[pa.Array, np.ndarray]:
        """Normalised strings, and int64 counts of shape (n, 2): words and lines.

        Words stand between single spaces, lines between "\n", none of them empty; a null gives an empty string. Only
        whole code points within the first `max_bytes` bytes of a string are read.
        """
        folded, counts = self.fold(texts, max_bytes)
        if pc.any(pc.match_substring_regex(folded, _SYMBOL)).as_py():
            folded = pc.replace_substring_regex(folded, _SYMBOL, r"(\1)")
        return folded, counts


def _none(char: str) -> tuple[str, int]:
    if char == "\n":
        return char, NEWLINE
    return char, SPACE if char.isspace() or unicodedata.category(char) == "Cc" else KEEP


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


_TABLES: dict[str, Callable[[str], tuple[str, int]]] = {"tamis/1": _tamis, "none/1": _none}
NAMES = (*_TABLES, *PUBLIC)


def _by_table(name: str) -> Normalisation:
    rule, target, kind = _TABLES[name], np.arange(TABLE_SIZE, dtype=np.uint32), np.zeros(TABLE_SIZE, np.uint8)
    for code in range(TABLE_SIZE):
        if not 0xD800 <= code <= 0xDFFF:
            char, kind[code] = rule(chr(code))
            target[code] = ord(char)
    digest = hashlib.sha256(name.encode() + target.astype("<u4").tobytes() + kind.tobytes()).hexdigest()
    return Normalisation(name, digest[:16], lambda texts, size: fold_text(texts, target, kind, size))


def _by_document(name: str) -> Normalisation:
    """A public definition, which sees the whole document. Its fingerprint covers every code point in one text."""
    change = PUBLIC[name]

    def fold(texts: pa.Array, max_bytes: int) -> tuple[pa.Array, np.ndarray]:
        cut = [(value or b"")[:max_bytes].decode(errors="ignore") for value in texts.cast(pa.binary()).to_pylist()]
        folded = pa.array([" ".join(filter(None, change(text).split(" "))) for text in cut], pa.string())
        filled = np.asarray(pc.not_equal(folded, ""), dtype=bool)
        words = np.where(filled, np.asarray(pc.count_substring(folded, " ")).astype(np.int64) + 1, 0)
        return folded, np.stack([words, filled.astype(np.int64)], axis=1)

    codes = (code for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF)
    digest = hashlib.sha256(name.encode() + change("x".join(map(chr, codes))).encode()).hexdigest()
    return Normalisation(name, digest[:16], fold)


@functools.cache
def normalisation(name: str) -> Normalisation:
    """The normalisation of that name. Raises ValueError for an unknown one."""
    if name not in NAMES:
        raise ValueError(f"expected a text normalisation among {', '.join(NAMES)}, found {name!r}")
    return _by_table(name) if name in _TABLES else _by_document(name)


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
