"""Gopher quality statistics (Rae et al. 2021, table A1, "Quality filtering").

Keep a document with 50 to 100,000 words, word length 3 to 10, few hashes and ellipses, few bullet lines, few lines that
end in an ellipsis, mostly alphabetic words and at least two stop words. Words are white-space words (`str.split`).

==============  ====================================================  ==========================================
statistic       variant `paper`                                       variant `dolma` (its tagger `gopher_v1`)
==============  ====================================================  ==========================================
word length     mean                                                  median
symbol_ratio    the larger of count("#") and count("...") +           words that contain "#" or "…", / words
                count("…"), / words: each alone has to pass
lines           items of split("\\n"), stripped, blank ones left out   items of split("\\n") as they are
bullets         ● • * -                                               * -
ellipsis        ... or …                                              …
stop_words      how many of the eight occur, case counts              how many words are one of the eight
==============  ====================================================  ==========================================

The paper leaves the marks and the treatment of lines open; `paper` takes the union of what DCLM and datatrove use.
datatrove's own filter needs a language's word tokenizer and is not offered here. Ratios of an empty document are 0.
Cost: about 6 us for a document of 1.3 kB beside the shared word pass.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
from numba import njit
from pydantic import Field

from pipeline.stage import Batch, Params, Rule, doc_stage
from stages.kernels import chars, words

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
RATIOS = ("mean_word_length", "median_word_length", "symbol_ratio", "bullet_lines", "ellipsis_lines", "alpha_words")
ADDS = pa.schema([("words", pa.int32()), *((name, pa.float64()) for name in RATIOS), ("stop_words", pa.int32())])

_STOP = np.array([int.from_bytes(word.encode(), "little") for word in STOP_WORDS], np.uint32)


class GopherQuality(Params):
    variant: Literal["paper", "dolma"] = Field("paper", description="definition of the statistics")


def rules(params: GopherQuality) -> list[Rule]:
    """Thresholds of table A1; `dolma` (configs v1.5 and v1.6) has the same numbers on the median length."""
    length = "mean_word_length" if params.variant == "paper" else "median_word_length"
    return [Rule.parse(text) for text in (
        "words >= 50", "words <= 100000", f"{length} >= 3", f"{length} <= 10", "symbol_ratio <= 0.1",
        "bullet_lines <= 0.9", "ellipsis_lines <= 0.3", "alpha_words >= 0.8", "stop_words >= 2",
    )]  # fmt: skip


@doc_stage("gopher_quality", GopherQuality, reads=("text",), adds=ADDS, rules=rules)
def gopher_quality(batch: Batch, params: GopherQuality, tools) -> dict[str, pa.Array]:
    """Gopher quality: word counts and lengths, symbols, bullets, ellipses, alphabetic words, stop words."""
    text = batch["text"]
    offsets, data = words.buffers(text)
    word, line = words.of(batch), words.lines_of(batch)
    out = np.zeros((len(ADDS), len(text)))
    dolma = params.variant == "dolma"
    _word_statistics(offsets, data, word.doc_offsets, word.starts, word.ends, word.lengths, word.bits, _STOP, dolma,
                     out)  # fmt: skip
    _line_statistics(data, line.doc_offsets, line.starts, line.ends, dolma, *chars.tables(), out)
    return {field.name: words.column(out[k].astype(field.type.to_pandas_dtype()), text) for k, field in enumerate(ADDS)}


@njit(cache=True, nogil=True)
def _is_ellipsis(data, i, end):
    """2 for "…" at i, 1 for "...", else 0."""
    if i + 2 >= end:
        return 0
    if data[i] == 0xE2 and data[i + 1] == 0x80 and data[i + 2] == 0xA6:
        return 2
    return 1 if data[i] == 46 and data[i + 1] == 46 and data[i + 2] == 46 else 0


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
def _word_statistics(offsets, data, doc_offsets, starts, ends, lengths, bits, stop, dolma, out):
    for doc in range(len(offsets) - 1):
        lo, hi = doc_offsets[doc], doc_offsets[doc + 1]
        total = hi - lo
        out[0, doc] = total
        if total == 0:
            continue
        characters, alphabetic, symbols, occurrences, distinct = 0, 0, 0, 0, 0
        for k in range(lo, hi):
            characters += lengths[k]
            alphabetic += (bits[k] & chars.ALPHA) != 0
            width = ends[k] - starts[k]
            if 2 <= width <= 4:
                value = np.uint32(0)
                for b in range(width):
                    value |= np.uint32(data[starts[k] + b]) << np.uint32(8 * b)
                for s in range(len(stop)):
                    if value == stop[s]:
                        occurrences += 1
                        distinct |= 1 << s
            if dolma:
                hashes, single, _ = _symbols(data, starts[k], ends[k])
                symbols += hashes + single > 0
        if not dolma:
            hashes, single, dots = _symbols(data, np.int64(offsets[doc]), np.int64(offsets[doc + 1]))
            symbols = max(hashes, single + dots)
            occurrences = 0
            for s in range(len(stop)):
                occurrences += (distinct >> s) & 1
        out[1, doc] = characters / total
        out[2, doc] = np.median(lengths[lo:hi])
        out[3, doc] = symbols / total
        out[6, doc] = alphabetic / total
        out[7, doc] = occurrences


@njit(cache=True, nogil=True)
def _line_statistics(data, doc_offsets, starts, ends, dolma, pages, classes, out):
    for doc in range(len(doc_offsets) - 1):
        total, bullets, ellipses = 0, 0, 0
        for k in range(doc_offsets[doc], doc_offsets[doc + 1]):
            start, end = np.int64(starts[k]), np.int64(ends[k])
            if not dolma:
                start, end = chars.strip(data, start, end, pages, classes)
                if start == end:
                    continue
            total += 1
            if start < end and (data[start] == 42 or data[start] == 45):
                bullets += 1
            elif not dolma and data[start] == 0xE2:
                cp, _ = chars.decode(data, start, end)
                bullets += cp == 0x2022 or cp == 0x25CF
            if end - start >= 3:
                kind = _is_ellipsis(data, end - 3, end)
                ellipses += kind == 2 or (kind == 1 and not dolma)
        out[4, doc] = bullets / max(total, 1)
        out[5, doc] = ellipses / max(total, 1)
