"""Rules for files of source code, as code corpora use them: line lengths, character classes, encoded data, markers.

============  ======================================================  ==============================================
variant       rules (kept while they hold)                            follows
============  ======================================================  ==============================================
`starcoder`   longest line <= 1000, mean line <= 100,                 `preprocessing/filtering.py` of bigcode-dataset:
              alphanumeric characters >= .25, no `<?xml version=`     filters basic, xml and html (Li et al. 2023)
              in the first 100 characters; an HTML file shows
              over 100 characters, over 20 % of it
`starcoder2`  at most 100,000 lines, longest line <= 1000,            Lozhkov et al. 2024 (arXiv:2402.19173), section
              mean line <= 100, alphabetic characters >= .25, no      on the filters of The Stack v2
              mark of generated code in the first five lines,
              no encoded run over 1,024 characters, at most half
              the file encoded
`redpajama`   longest line <= 1000, mean line <= 100,                 `data_prep/github/github_run_filter.py` of
              alphanumeric characters >= .25,                         RedPajama-Data v1; tokens as in dolma's
              alphabetic characters per token >= 1.5                  `code_redpajama_taggers_v1`
============  ======================================================  ==============================================

All variants compute all statistics, so that one can be exchanged for another with `select` alone. Lines are those of
`str.splitlines`. Where the paper of StarCoder2 counts each of its three expressions of encoded data apart, characters
count once here. RedPajama counted GPT-NeoX tokens, of which code has more than the `\\w+|[^\\w\\s]+` pieces used by
dolma and here. Not part of this stage: what needs the language or the extension of a file (other limits for JSON and
text, comment ratios, go-enry's `is_generated`), stars. Cost: 15 us for a file of 1.3 kB (65,000 for each CPU-second).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from pipeline.stage import Batch, Params, Rule, doc_stage
from stages.kernels import char_bits, code_stats, words

ADDS = pa.schema([
    ("lines", pa.int32()),
    ("max_line_length", pa.int32()),  # characters; null without a line
    ("mean_line_length", pa.float64()),
    ("alnum_chars", pa.float64()),  # share of characters that are str.isalnum; null without a character
    ("alpha_chars", pa.float64()),
    ("alpha_per_token", pa.float64()),
    ("encoded_chars", pa.float64()),  # share of characters inside base64, hexadecimal or \u sequences
    ("longest_encoded", pa.int32()),  # characters
    ("generated", pa.uint8()),
    ("xml", pa.uint8()),
    ("visible_text", pa.float64()),  # share of characters outside mark-up; null where the file is not HTML
    ("visible_chars", pa.int32()),
])  # fmt: skip
_LINES = ("max_line_length <= 1000", "mean_line_length <= 100")
_RULES = {
    "starcoder": (*_LINES, "alnum_chars >= 0.25", "xml == 0", "visible_text > 0.2", "visible_chars > 100"),
    "starcoder2": ("lines <= 100000", *_LINES, "alpha_chars >= 0.25", "generated == 0", "longest_encoded <= 1024",
                   "encoded_chars <= 0.5"),
    "redpajama": (*_LINES, "alnum_chars >= 0.25", "alpha_per_token >= 1.5"),
}  # fmt: skip


class CodeQuality(Params):
    variant: Literal["starcoder", "starcoder2", "redpajama"] = Field("starcoder2", description="whose rules to publish")


def rules(params: CodeQuality) -> list[Rule]:
    """The rules of the variant, in the order of its source."""
    return [Rule.parse(text) for text in _RULES[params.variant]]


@doc_stage("code_quality", CodeQuality, reads=("text",), adds=ADDS, rules=rules)
def code_quality(batch: Batch, params: CodeQuality, tools) -> dict[str, pa.Array]:
    """Code files: line lengths, alphabetic and encoded characters, marks of generated code, XML, visible HTML."""
    text = batch["text"]
    offsets, data = words.buffers(text)
    out = np.full((len(ADDS), len(text)), np.nan)
    code_stats.statistics(offsets, data, *char_bits.tables(), out)
    missing = np.isnan(out) | np.asarray(text.is_null())
    out[missing] = 0
    return {
        field.name: pa.array(out[k].astype(field.type.to_pandas_dtype()), mask=missing[k])
        for k, field in enumerate(ADDS)
    }
