"""Exact duplicates: documents with the same normalised text, by a 128-bit hash of it.

Normalised means: case folded, runs of white space as one blank, none at the ends; punctuation counts. Of the
copies the one with the smallest document id stays, whatever the order of the input. Documents without text (null) are
never removed; empty texts are copies of each other.

Cost: one pass of about 300 MB a second for the hashes, then one sort of 20 bytes for each document.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.stage import Batch, Corpus, Out, Params, Tools, global_stage
from stages.kernels import chars, minhash
from stages.kernels.content_hash import content_hashes
from stages.near_dedup import cluster_out, group_first, keep_order

REASON = "exact_duplicate"


class ExactDedup(Params):
    """Nothing to set."""


def sketch(batch: Batch, params: ExactDedup, tools: Tools) -> dict[str, pa.Array]:
    """The hash of each normalised text and its length in bytes, -1 where there is no text."""
    text = batch["text"]
    high, low, length = content_hashes(*minhash.text_spans(text), minhash.fold_table(), *chars.tables())
    length[np.asarray(text.is_null())] = -1
    return {"hash_hi": pa.array(high), "hash_lo": pa.array(low), "length": pa.array(length)}


@global_stage(
    "exact_dedup", ExactDedup, reads=("text",), sketch=sketch,
    sketch_schema=[("hash_hi", pa.uint64()), ("hash_lo", pa.uint64()), ("length", pa.int32())],
    adds=[("cluster_id", pa.string()), ("canonical_id", pa.string())],
)  # fmt: skip
def exact_dedup(corpus: Corpus, params: ExactDedup, tools: Tools) -> Out:
    """Remove all copies of a text but the one with the smallest document id.

    Adds `cluster_id` and `canonical_id`, both the id of the copy that stays, for it and its removed copies; null for a
    document without copies. Reason `exact_duplicate`.
    """
    doc_ids = corpus.column("doc_id")
    keys = [corpus.column(name).to_numpy() for name in ("hash_hi", "hash_lo", "length")]
    return cluster_out(doc_ids, group_first(keys, keep_order(doc_ids), keys[2] >= 0), REASON)
