"""Gopher quality statistics (Rae et al. 2021, table A1, "Quality filtering").

Keep a document with 50 to 100,000 words, word length 3 to 10, few hashes and ellipses, few bullet lines, few lines that
end in an ellipsis, mostly alphabetic words and at least two stop words. The paper leaves words, marks and lines open;
`paper` takes white-space words (`str.split`) and the union of the marks of the others.

==============  =====================  =====================  =====================  =======================
statistic       `paper`                `datatrove` (0.10)     `dolma` (`gopher_v1`)  `dclm`
==============  =====================  =====================  =====================  =======================
words           str.split              spaCy's English        str.split              fastText tokens that
                                       tokens, not all                               start with a letter
                                       of symbols                                    or digit
word length     mean, str.split        mean of these words    median, str.split      mean, str.split
symbol_ratio    the larger of # and    as `paper`, / all      words with # or "…",   #, ..., ". . ." and "…"
                (... and …), each      tokens                 / words                together, / str.split
                alone, / words
lines           split("\\n"), stripped, splitlines(), blank    split("\\n"), as they   split("\\n"), stripped,
                not blank              ones too               are                    not blank
bullets         ● • * -                • -                    * -                    ● • * -
ellipsis        ... …                  ... …                  …                      ... ". . ." …
alpha_words     / str.split            / all tokens           / str.split            / str.split
stop_words      different ones         different ones         occurrences            occurrences, lower-cased
==============  =====================  =====================  =====================  =======================

Stop words are English unless the manifest gives others: with `by` each document is judged by the list of its own
language, and a document whose language has no list gets null. A ratio or length without words (or lines) is null.
`datatrove` counts by spaCy's English rules whatever the language.
Cost: about 4 us for a document of 1.3 kB beside the shared word pass.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa
from numba import njit
from pydantic import Field, model_validator

from pipeline.stage import Batch, Params, Rule, doc_stage
from stages.kernels import chars, english_tokens, stop_words, tokens, words

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
RATIOS = ("mean_word_length", "median_word_length", "symbol_ratio", "bullet_lines", "ellipsis_lines", "alpha_words")
ADDS = pa.schema([("words", pa.int32()), *((name, pa.float64()) for name in RATIOS), ("stop_words", pa.int32())])

VARIANTS = ("paper", "datatrove", "dolma", "dclm")
PAPER, DATATROVE, DOLMA, DCLM = range(4)


class GopherQuality(Params):
    variant: Literal["paper", "datatrove", "dolma", "dclm"] = Field("paper", description="definition of the statistics")
    language: str = Field("en", description="whose stop words apply to every document, unless `by` is given")
    by: str = Field("", description="column with the language of each document, such as `langid.language`")
    stop_words: dict[str, list[str]] = Field(
        {"en": list(STOP_WORDS)}, description="stop words of each language; another language has no such statistic"
    )

    @model_validator(mode="after")
    def _lists_are_usable(self) -> GopherQuality:
        if not self.by and self.language not in self.stop_words:
            raise ValueError(f"expected stop words of {self.language!r}, found those of {sorted(self.stop_words)}")
        for language, listed in self.stop_words.items():
            bad = [word for word in listed if len(word.split()) != 1 or word != word.strip()]
            if bad:
                raise ValueError(f"stop words of {language!r}: expected words without white space, found {bad[:3]}")
        return self


def rules(params: GopherQuality) -> list[Rule]:
    """Thresholds of table A1; `dolma` (configs v1.5 and v1.6) has the same numbers on the median length."""
    length = "median_word_length" if params.variant == "dolma" else "mean_word_length"
    return [Rule.parse(text) for text in (
        "words >= 50", "words <= 100000", f"{length} >= 3", f"{length} <= 10", "symbol_ratio <= 0.1",
        "bullet_lines <= 0.9", "ellipsis_lines <= 0.3", "alpha_words >= 0.8", "stop_words >= 2",
    )]  # fmt: skip


def languages(params: GopherQuality) -> tuple[str, tuple[str, ...]]:
    """The column with a document's language ("": all have `language`) and the languages with stop words."""
    return params.by, tuple(sorted(params.stop_words)) if params.by else (params.language,)


@lru_cache(maxsize=8)
def _lists(stop: tuple[tuple[str, tuple[str, ...]], ...]) -> stop_words.Lists:
    return stop_words.lists(dict(stop))


@doc_stage(
    "gopher_quality",
    GopherQuality,
    reads=lambda params: ("text", params.by) if params.by else ("text",),
    adds=ADDS,
    rules=rules,
    languages=languages,
    identity=lambda params: english_tokens.version() if params.variant == "datatrove" else "",
)
def gopher_quality(batch: Batch, params: GopherQuality, tools) -> dict[str, pa.Array]:
    """Gopher quality: word counts and lengths, symbols, bullets, ellipses, alphabetic words, stop words."""
    text = batch["text"]
    offsets, data = words.buffers(text)
    variant = VARIANTS.index(params.variant)
    datatrove = variant == DATATROVE
    word = tokens.of(batch) if datatrove else words.of(batch)
    line = batch.memo("splitlines", lambda: words.splitlines(text)) if datatrove else words.lines_of(batch)
    out = np.full((len(ADDS), len(text)), np.nan)
    _word_statistics(offsets, data, word.doc_offsets, word.starts, word.ends, word.lengths, word.bits, variant, out)
    if variant == DCLM:
        _fasttext_words(offsets, data, *chars.tables(), out[0])
    _line_statistics(data, line.doc_offsets, line.starts, line.ends, variant, *chars.tables(), out)

    stop = _lists(tuple((language, tuple(listed)) for language, listed in sorted(params.stop_words.items())))
    language = stop_words.rows(stop, batch, params.language, params.by)
    lower = stop_words.lower_table() if variant == DCLM else np.empty(0, np.int32)
    counts = np.zeros((2, len(text)), np.int32)
    stop_words.count(data, word.doc_offsets, word.starts, word.ends, language, stop.data, stop.offsets, stop.buckets,
                     lower, counts)  # fmt: skip
    columns = {"words": words.column(out[0].astype(np.int32), text)}
    columns |= {name: words.column(out[k], text) for k, name in enumerate(RATIOS, start=1)}
    found = np.where(language < 0, np.nan, counts[1 if variant in (PAPER, DATATROVE) else 0])
    return columns | {"stop_words": words.column(found, text).cast(pa.int32())}


@njit(cache=True, nogil=True)
def _is_ellipsis(data, i, end):
    """2 for "…" at i, 1 for "...", else 0."""
    if i + 2 >= end:
        return 0
    if data[i] == 0xE2 and data[i + 1] == 0x80 and data[i + 2] == 0xA6:
        return 2
    return 1 if data[i] == 46 and data[i + 1] == 46 and data[i + 2] == 46 else 0


@njit(cache=True, nogil=True)
def _is_spaced(data, i, end):
    """Is there ". . ." at i?"""
    if i + 4 >= end or data[i] != 46 or data[i + 1] != 32:
        return False
    return data[i + 2] == 46 and data[i + 3] == 32 and data[i + 4] == 46


@njit(cache=True, nogil=True)
def _symbols(data, start, end):
    """`(count("#"), count("…"), count("..."))` of a span; like `str.count`, matches do not overlap."""
    hashes, single, dots = 0, 0, 0
    i = start
    while i < end:
        byte = data[i]
        if byte == 35:
            hashes += 1
        elif byte == 46 or byte == 0xE2:
            kind = _is_ellipsis(data, i, end)
            single += kind == 2
            dots += kind == 1
            i += 2 * (kind > 0)
        i += 1
    return hashes, single, dots


@njit(cache=True, nogil=True)
def _spaced(data, start, end):
    """`count(". . .")` of a span."""
    found, i = 0, start
    while i < end:
        match = _is_spaced(data, i, end)
        found += match
        i += 5 if match else 1
    return found


@njit(cache=True, nogil=True)
def _median(lengths, bits, wanted, total, histogram):
    """Median of `total` lengths with the bit `wanted`; `histogram` is zeroed scratch, and left so."""
    last = len(histogram) - 1
    for k in range(len(lengths)):
        histogram[min(lengths[k], last)] += (bits[k] & wanted) != 0
    below, low, high = 0, -1, -1
    for length in range(len(histogram)):
        below += histogram[length]
        if low < 0 and 2 * below >= total:
            low = length
        if high < 0 and 2 * below > total:
            high = length
    histogram[:] = 0
    if high < last:
        return (low + high) / 2
    return np.median(lengths[(bits & wanted) != 0])


@njit(cache=True, nogil=True)
def _word_statistics(offsets, data, doc_offsets, starts, ends, lengths, bits, variant, out):
    wanted = english_tokens.TEXT if variant == DATATROVE else np.uint8(0xFF)
    histogram = np.zeros(128, np.int64)
    for doc in range(len(offsets) - 1):
        lo, hi = doc_offsets[doc], doc_offsets[doc + 1]
        total, characters, alphabetic, symbols = 0, 0, 0, 0
        for k in range(lo, hi):
            if bits[k] & wanted:
                total += 1
                characters += lengths[k]
            alphabetic += (bits[k] & chars.ALPHA) != 0
            if variant == DOLMA:
                hashes, single, _ = _symbols(data, starts[k], ends[k])
                symbols += hashes + single > 0
        start, end = np.int64(offsets[doc]), np.int64(offsets[doc + 1])
        if variant != DOLMA:
            hashes, single, dots = _symbols(data, start, end)
            symbols = max(hashes, single + dots)
            if variant == DCLM:
                symbols = hashes + single + dots + _spaced(data, start, end)
        out[0, doc] = total
        if total:
            out[1, doc] = characters / total
            out[2, doc] = _median(lengths[lo:hi], bits[lo:hi], wanted, total, histogram)
        if hi > lo:
            out[3, doc] = symbols / (hi - lo)
            out[6, doc] = alphabetic / (hi - lo)


@njit(cache=True, nogil=True)
def _fasttext_words(offsets, data, pages, classes, out):
    """Tokens between ASCII white space or NUL, as fastText cuts them, that start with a letter or digit."""
    for doc in range(len(offsets) - 1):
        total, inside = 0, False
        for i in range(offsets[doc], offsets[doc + 1]):
            byte = data[i]
            space = byte == 32 or 9 <= byte <= 13 or byte == 0
            if not space and not inside:
                cp, _ = chars.decode(data, np.int64(i), np.int64(offsets[doc + 1]))
                total += (chars.bits_of(cp, pages, classes) & chars.WORD) != 0 and byte != 95
            inside = not space
        out[doc] = total


@njit(cache=True, nogil=True)
def _line_statistics(data, doc_offsets, starts, ends, variant, pages, classes, out):
    blank = variant == DOLMA or variant == DATATROVE  # blank lines count
    for doc in range(len(doc_offsets) - 1):
        total, bullets, ellipses = 0, 0, 0
        lo, hi = doc_offsets[doc], doc_offsets[doc + 1]
        if variant == DOLMA and hi - lo == 1 and starts[lo] == ends[lo]:
            continue  # an empty text
        for k in range(lo, hi):
            start, end = np.int64(starts[k]), np.int64(ends[k])
            if variant != DOLMA:
                start, end = chars.strip(data, start, end, pages, classes)
            if start == end and not blank:
                continue
            total += 1
            if start < end and (data[start] == 45 or (data[start] == 42 and variant != DATATROVE)):
                bullets += 1
            elif start < end and data[start] == 0xE2 and variant != DOLMA:
                cp, _ = chars.decode(data, start, end)
                bullets += cp == 0x2022 or (cp == 0x25CF and variant != DATATROVE)
            if end - start >= 3:
                kind = _is_ellipsis(data, end - 3, end)
                ellipsis = kind == 2 or (kind == 1 and variant != DOLMA)
                ellipsis = ellipsis or (variant == DCLM and end - start >= 5 and _is_spaced(data, end - 5, end))
                ellipses += 1 if ellipsis else 0
        if total:
            out[4, doc] = bullets / total
            out[5, doc] = ellipses / total
