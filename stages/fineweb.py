"""FineWeb quality statistics (Penedo et al. 2024, section 3.6).

Lines are the items of `split("\\n")`, blank ones too. A line ends in punctuation when its last character is one of
. ' " ! ? ; characters in duplicated lines are those of second and later copies of non-blank lines, over all characters
but newlines.

=================  ======================================  ==============================================
a document is      variant `paper`                         variant `code` (datatrove as FineWeb ran it)
kept while
=================  ======================================  ==============================================
line_punct_ratio   > .12                                   > .12
short_line_ratio   < .67, lines under 30 characters        < .67, lines of at most 30 characters
char_dup_ratio     < .1                                    < .01, a default that the paper does not state
list_ratio         no rule                                 <= .3, newlines / words
=================  ======================================  ==============================================

datatrove counts `list_ratio` over the tokens of a language's word tokenizer; here words are white-space words, which
are fewer (punctuation is no word), so the ratio is somewhat higher. Ratios without a denominator are 0.
Cost: about 3 us for a document of 1.3 kB beside the shared passes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
from numba import njit
from pydantic import Field

from pipeline.stage import Batch, Params, Rule, doc_stage
from stages.kernels import chars, ngrams, words

NAMES = ("line_punct_ratio", "short_line_ratio", "char_dup_ratio", "list_ratio")
ADDS = pa.schema([(name, pa.float64()) for name in NAMES])


class FineWeb(Params):
    variant: Literal["paper", "code"] = Field("paper", description="thresholds and line length: paper or datatrove")


def rules(params: FineWeb) -> list[Rule]:
    """The published thresholds of the variant; a document is kept while all hold."""
    texts = ["line_punct_ratio > 0.12", "short_line_ratio < 0.67"]
    texts += ["char_dup_ratio < 0.1"] if params.variant == "paper" else ["char_dup_ratio < 0.01", "list_ratio <= 0.3"]
    return [Rule.parse(text) for text in texts]


@doc_stage("fineweb", FineWeb, reads=("text",), adds=ADDS, rules=rules)
def fineweb(batch: Batch, params: FineWeb, tools) -> dict[str, pa.Array]:
    """FineWeb quality: lines that end in punctuation, short lines, duplicated lines, newlines per word."""
    text = batch["text"]
    offsets, data = words.buffers(text)
    word, line = words.of(batch), words.lines_of(batch)
    out = np.zeros((len(NAMES), len(text)))
    short = 29 if params.variant == "paper" else 30
    _statistics(offsets, data, word.doc_offsets, line.doc_offsets, line.starts, line.ends, short, ngrams.SEED,
                *chars.tables(), out)  # fmt: skip
    return {name: words.column(out[k], text) for k, name in enumerate(NAMES)}


@njit(cache=True, nogil=True)
def _statistics(offsets, data, word_docs, line_docs, starts, ends, short, seed, pages, classes, out):
    longest = 1
    for doc in range(len(offsets) - 1):
        longest = max(longest, line_docs[doc + 1] - line_docs[doc])
    full_starts, full_ends = np.empty(longest, np.int32), np.empty(longest, np.int32)
    ids, first, counts = np.empty(longest, np.int32), np.empty(longest, np.int32), np.empty(longest, np.int32)
    table = np.empty(ngrams.capacity(longest), np.int32)
    for doc in range(len(offsets) - 1):
        lo, hi = line_docs[doc], line_docs[doc + 1]
        punctuated, shorter, characters, full = 0, 0, 0, 0
        for k in range(lo, hi):
            start, end = np.int64(starts[k]), np.int64(ends[k])
            size = chars.length(data, start, end)
            characters += size
            shorter += size <= short
            if start == end:
                continue
            last = data[end - 1]
            punctuated += last == 46 or last == 39 or last == 34 or last == 33 or last == 63
            head, tail = chars.strip(data, start, end, pages, classes)
            if head < tail:
                full_starts[full], full_ends[full] = start, end
                full += 1
        _, copied = ngrams.duplicates(data, full_starts, full_ends, full, False, seed, table, ids, first, counts)
        out[0, doc] = punctuated / (hi - lo)
        out[1, doc] = shorter / (hi - lo)
        out[2, doc] = copied / max(characters, 1)
        out[3, doc] = (hi - lo - 1) / max(word_docs[doc + 1] - word_docs[doc], 1)
