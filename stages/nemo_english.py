"""The English heuristics of NeMo Curator: the whole preset `heuristic_filter_english_pipeline.yaml`.

Twenty-eight statistics with the filters' own definitions, some of which differ from the paper that they follow:
`non_alphanumeric` counts a blank as non-alphanumeric (but not `?!,.` and line ends); `urls` sees scheme and host only;
`symbol_words` counts *runs* of "#", so that "##" is no symbol; bullets are twelve Unicode marks without "-" and "*";
the repetition rules of lines and paragraphs keep a document when 70 % of them (80 % of their characters) stay after
removal of copies. `remove_if_at_top_or_bottom` of the boilerplate filter is set in the preset and read by no code.

Where the original divides by zero or returns a fixed number for an empty or too short text (1.0: dropped), the
statistic here is null, and the rule keeps the document; an empty one still falls to `words`. "A letter" is
`str.isalpha`, where the original asks for Unicode's Alphabetic, which adds combining vowels and circled letters.

English only, by its words and phrases. Cost: 34 us for a document of 1.3 kB (29,000 for each CPU-second).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.stage import Batch, Params, Rule, doc_stage
from stages.kernels import chars, nemo, nemo_ngrams, ngrams, words

_COUNTS = ("words", "longest_word", "common_words")
_STATISTICS = (
    "words", "mean_word_length", "longest_word", "non_alphanumeric", "symbol_words", "numbers", "urls", "white_space",
    "parentheses", "boilerplate", "unique_lines", "unique_paragraphs", "unique_line_chars", "unique_paragraph_chars",
    "unended_lines", "alpha_words", "common_words", "ellipsis_lines", "bullet_lines",
)  # fmt: skip
_NGRAMS = (*(f"top_{n}gram" for n in (2, 3, 4)), *(f"dup_{n}gram" for n in range(5, 11)))
ADDS = pa.schema([(name, pa.int32() if name in _COUNTS else pa.float64()) for name in (*_STATISTICS, *_NGRAMS)])

_RULES = (
    "non_alphanumeric <= 0.25", "symbol_words <= 0.1", "numbers <= 0.15", "urls <= 0.2", "white_space <= 0.25",
    "parentheses <= 0.1", "boilerplate <= 0.4", "unique_lines >= 0.7", "unique_paragraphs >= 0.7",
    "unique_line_chars >= 0.8", "unique_paragraph_chars >= 0.8", "words >= 50", "words <= 100000",
    "unended_lines <= 0.85", "alpha_words >= 0.8", "common_words >= 2", "mean_word_length >= 3",
    "mean_word_length <= 10", "longest_word <= 1000", "ellipsis_lines <= 0.3", "top_2gram <= 0.2", "top_3gram <= 0.18",
    "top_4gram <= 0.16", "dup_5gram <= 0.15", "dup_6gram <= 0.14", "dup_7gram <= 0.13", "dup_8gram <= 0.12",
    "dup_9gram <= 0.11", "dup_10gram <= 0.1", "bullet_lines <= 0.9",
)  # fmt: skip


class NemoEnglish(Params):
    pass


def languages(params: NemoEnglish) -> tuple[str, tuple[str, ...]]:
    """Column of the language ("": none is read) and the languages that the settings are for."""
    return "", ("en",)


def rules(params: NemoEnglish) -> list[Rule]:
    """The thresholds of the preset, in its order."""
    return [Rule.parse(text) for text in _RULES]


@doc_stage("nemo_english", NemoEnglish, reads=("text",), adds=ADDS, rules=rules, languages=languages)
def nemo_english(batch: Batch, params: NemoEnglish, tools) -> dict[str, pa.Array]:
    """NeMo Curator's English heuristics: characters, words, lines, paragraphs, boilerplate, repeated n-grams."""
    text = batch["text"]
    offsets, data = words.buffers(text)
    word, line = words.of(batch), words.lines_of(batch)
    out = np.full((len(ADDS), len(text)), np.nan)
    nemo.characters(offsets, data, out)
    nemo.words(data, word.doc_offsets, word.starts, word.ends, word.lengths, word.bits, out)
    nemo.lines(offsets, data, line.doc_offsets, line.starts, line.ends, ngrams.SEED, *chars.tables(), out)
    nemo_ngrams.statistics(offsets, data, word.doc_offsets, word.starts, word.ends, word.lengths, ngrams.SEED,
                           out[len(_STATISTICS) :])  # fmt: skip
    missing = np.isnan(out) | np.asarray(text.is_null())
    out[missing] = 0
    return {
        field.name: pa.array(out[k].astype(field.type.to_pandas_dtype()), mask=missing[k])
        for k, field in enumerate(ADDS)
    }
