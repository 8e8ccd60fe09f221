"""The length rule of CCNet (Wenzek et al. 2020; `min_len` of `process_wet_file.py`): at least 300 characters.

Characters are code points, line ends included, as `len(str)`. CCNet measures the text after the title line of a WET
record; here the whole text counts. Cost: 0.5 us for a document of 1.3 kB.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.stage import Batch, Params, Rule, doc_stage

ADDS = pa.schema([("chars", pa.int32())])


class CCNetLength(Params):
    pass


def rules(params: CCNetLength) -> list[Rule]:
    """At least 300 characters."""
    return [Rule.parse("chars >= 300")]


@doc_stage("ccnet_length", CCNetLength, reads=("text",), adds=ADDS, rules=rules)
def ccnet_length(batch: Batch, params: CCNetLength, tools) -> dict[str, pa.Array]:
    """CCNet's length rule: the number of characters."""
    return {"chars": pc.utf8_length(batch["text"]).cast(pa.int32())}
