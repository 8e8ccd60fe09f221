"""FineWeb quality statistics (Penedo et al. 2024, section 3.6).

=================  ======================================  ==============================================
                   variant `paper`                         variant `code` (datatrove 0.10)
=================  ======================================  ==============================================
lines              split("\n"), blank ones too             split("\n"), not blank
end in             . ' " ! ?                               a sentence mark of any script
short lines        under 30 characters                     of at most 30 characters
words              str.split                               spaCy's English tokens
kept while
line_punct_ratio   > .12                                   >= .12
short_line_ratio   < .67                                   <= .67
char_dup_ratio     < .1                                    <= .01, a default that the paper does not state
list_ratio         no rule                                 <= .3, newlines / words
=================  ======================================  ==============================================

`paper` counts lines and marks as the code did when FineWeb was made, with the thresholds of the paper. Characters in
duplicated lines are those of second and later copies of non-blank lines, over all characters but newlines. A ratio
without lines, characters or words is null.
Cost: about 3 us for a document of 1.3 kB beside the shared passes.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import pyarrow as pa
from numba import njit
from pydantic import Field

from pipeline.stage import Batch, Params, Rule, doc_stage
from stages.kernels import chars, english_tokens, ngrams, tokens, words

NAMES = ("line_punct_ratio", "short_line_ratio", "char_dup_ratio", "list_ratio")
ADDS = pa.schema([(name, pa.float64()) for name in NAMES])


class FineWeb(Params):
    variant: Literal["paper", "code"] = Field(
        "paper", description="lines, marks and thresholds of the paper or of datatrove"
    )


def rules(params: FineWeb) -> list[Rule]:
    """The published thresholds of the variant; a document is kept while all hold."""
    if params.variant == "paper":
        texts = ["line_punct_ratio > 0.12", "short_line_ratio < 0.67", "char_dup_ratio < 0.1"]
    else:
        texts = ["line_punct_ratio >= 0.12", "short_line_ratio <= 0.67", "char_dup_ratio <= 0.01", "list_ratio <= 0.3"]
    return [Rule.parse(text) for text in texts]


@cache
def _final_marks() -> np.ndarray:
    """bool[0x110000]: characters that end a sentence in some script."""
    marks = np.zeros(0x110000, np.bool_)
    marks[english_tokens.code_points(english_tokens.TERMINAL)] = True
    return marks


@doc_stage("fineweb", FineWeb, reads=("text",), adds=ADDS, rules=rules,
           identity=lambda params: english_tokens.version() if params.variant == "code" else "")  # fmt: skip
def fineweb(batch: Batch, params: FineWeb, tools) -> dict[str, pa.Array]:
    """FineWeb quality: lines that end in punctuation, short lines, duplicated lines, newlines per word."""
    text = batch["text"]
    offsets, data = words.buffers(text)
    code = params.variant == "code"
    word, line = (tokens if code else words).of(batch), words.lines_of(batch)
    out = np.full((len(NAMES), len(text)), np.nan)
    _statistics(offsets, data, word.doc_offsets, line.doc_offsets, line.starts, line.ends, code, _final_marks(),
                ngrams.SEED, *chars.tables(), out)  # fmt: skip
    return {name: words.column(out[k], text) for k, name in enumerate(NAMES)}


@njit(cache=True, nogil=True)
def _statistics(offsets, data, word_docs, line_docs, starts, ends, code, marks, seed, pages, classes, out):
    longest = 1
    for doc in range(len(offsets) - 1):
        longest = max(longest, line_docs[doc + 1] - line_docs[doc])
    full_starts, full_ends = np.empty(longest, np.int32), np.empty(longest, np.int32)
    ids, first, counts = np.empty(longest, np.int32), np.empty(longest, np.int32), np.empty(longest, np.int32)
    table = np.empty(ngrams.capacity(longest), np.int32)
    for doc in range(len(offsets) - 1):
        if offsets[doc] == offsets[doc + 1]:
            continue
        lo, hi = line_docs[doc], line_docs[doc + 1]
        punctuated, shorter, characters, full = 0, 0, 0, 0
        for k in range(lo, hi):
            start, end = np.int64(starts[k]), np.int64(ends[k])
            size = chars.length(data, start, end)
            characters += size
            head, tail = chars.strip(data, start, end, pages, classes)
            if head < tail:
                full_starts[full], full_ends[full] = start, end
                full += 1
            elif code:
                continue
            shorter += size <= (30 if code else 29)
            if start == end:
                continue
            last = end - 1
            while last > start and (data[last] & 0xC0) == 0x80:
                last -= 1
            cp, _ = chars.decode(data, last, end)
            if code:
                punctuated += marks[cp]
            else:
                punctuated += cp == 46 or cp == 39 or cp == 34 or cp == 33 or cp == 63
        _, copied = ngrams.duplicates(data, full_starts, full_ends, full, False, seed, table, ids, first, counts)
        total = full if code else hi - lo
        if total:
            out[0, doc] = punctuated / total
            out[1, doc] = shorter / total
        if characters:
            out[2, doc] = copied / characters
        if word_docs[doc + 1] > word_docs[doc]:
            out[3, doc] = (hi - lo - 1) / (word_docs[doc + 1] - word_docs[doc])
