"""Line-wise corrections of RefinedWeb (Penedo et al. 2023, section G.2 and table 6): edits the text, line by line.

Variant `dclm` is the public reading of the paper: `baselines_configs/refinedweb.yaml` of DCLM, with `modifiers.py`.
Lines are those of `split("\\n")`. The steps, in order:

1. a line with more than half its characters in upper case is removed;
2. so is one of digits alone (`str.isdigit`, share over .999999);
3. so is a counter ("3 likes", "1.2k views": one number, one of twelve nouns, nothing else but punctuation);
4. so is one of fewer than two words, where it is not empty;
5. in lines of at most ten words, "items in cart" anywhere, then "Read more" with three more characters at the end, then
   "Sign-in" at the start are taken out, with one white space beside them, in any case.

A line of which nothing is left is removed. The text is stripped after each step but 4, as there. "Read more" asks for
*any* three characters after it, since DCLM gives "Read more..." as a regular expression: "Read more now" goes, and a
bare "Read more" stays.

`removed_words` is the share of words that went, and the published rule drops a document above .05. Words are DCLM's:
fastText tokens (ASCII white space) that start with a letter or digit. Order matters: put language and Gopher before
this stage, as RefinedWeb does, since they see the uncorrected text. A document without words is undefined (null) and
kept; DCLM drops it. Cost: 10 us for a document of 1.3 kB (100,000 documents, 120 MB for each CPU-second).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from pipeline.stage import Batch, Params, Rule, doc_stage
from stages.kernels import char_bits, refinedweb, words

SPAN = pa.struct([("start", pa.int32()), ("end", pa.int32())])
ADDS = pa.schema([("text", pa.string()), ("lines_removed", pa.int32()), ("chars_removed", pa.int32()),
                  ("removed_words", pa.float64()), ("removed", pa.list_(SPAN))])  # fmt: skip


class RefinedWebLines(Params):
    variant: Literal["dclm"] = Field("dclm", description="whose reading of the paper to follow")


def rules(params: RefinedWebLines) -> list[Rule]:
    """The published limit: at most 5 % of the words removed."""
    return [Rule.parse("removed_words <= 0.05")]


@doc_stage("refinedweb_lines", RefinedWebLines, reads=("text",), adds=ADDS, rules=rules,
           languages=lambda params: ("", ("en",)))  # fmt: skip
def refinedweb_lines(batch: Batch, params: RefinedWebLines, tools) -> dict[str, pa.Array]:
    """RefinedWeb line corrections: the corrected text, the removed byte spans of the old one, the share of words."""
    text = batch["text"]
    offsets, data = words.buffers(text)
    line = words.lines_of(batch)
    docs, size = len(text), int(offsets[-1]) - int(offsets[0])
    out, out_offsets = np.empty(size + 1, np.uint8), np.zeros(docs + 1, np.int32)
    counts, cut_offsets = np.zeros((4, docs), np.int32), np.zeros(docs + 1, np.int32)
    cut_starts, cut_ends = np.empty(size // 2 + docs + 1, np.int32), np.empty(size // 2 + docs + 1, np.int32)
    written = refinedweb.correct(offsets, data, line.doc_offsets, line.starts, line.ends, *char_bits.tables(),
                                 out_offsets, out, counts, cut_offsets, cut_starts, cut_ends)  # fmt: skip
    cuts = int(cut_offsets[-1])
    spans = pa.StructArray.from_arrays([pa.array(cut_starts[:cuts]), pa.array(cut_ends[:cuts])], fields=list(SPAN))
    before, after = counts[refinedweb.TOKENS_BEFORE], counts[refinedweb.TOKENS_AFTER]
    share = np.maximum(before - after, 0) / np.maximum(before, 1)
    columns = {
        "text": pa.StringArray.from_buffers(docs, pa.py_buffer(out_offsets), pa.py_buffer(out[:written].copy())),
        "lines_removed": pa.array(counts[refinedweb.LINES_REMOVED]),
        "chars_removed": pa.array(counts[refinedweb.CHARS_REMOVED]),
        "removed_words": pa.array(share, mask=before == 0),
        "removed": pa.ListArray.from_arrays(pa.array(cut_offsets), spans),
    }
    if text.null_count:
        columns = {name: pc.if_else(text.is_valid(), array, None) for name, array in columns.items()}
    return columns
